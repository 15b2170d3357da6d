"""Scale the worker pods to the number that the segments need."""

"""The status page of a master, for operators."""

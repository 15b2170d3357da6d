"""The HTTP server of each process, and what its probes say."""

"""The HTTP server of each process, and its health checks."""

"""The read-only HTTP API of every process, beside health and metrics."""

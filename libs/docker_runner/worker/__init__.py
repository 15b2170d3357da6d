"""The connection between a worker and its Docker host, the same for all services."""

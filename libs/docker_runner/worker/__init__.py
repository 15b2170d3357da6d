"""Where a worker meets its Docker host: the same for all services, and all of it that knows of workers."""

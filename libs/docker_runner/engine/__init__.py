"""The Docker engine: its requests and answers, its events, its images, its lock and its room."""

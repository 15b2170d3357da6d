"""The Docker engine: requests and answers, events, images, the lock, and room."""

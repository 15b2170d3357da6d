"""Queries to bots: over a relay into a running container, or in a container of their own."""

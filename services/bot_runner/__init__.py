"""Keeps bots running: each enabled bot of a segment in exactly one container."""

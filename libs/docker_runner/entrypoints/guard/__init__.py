"""Runs once in a short-lived container on the network of the engine's host."""

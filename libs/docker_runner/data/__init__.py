"""Shared data sets on a worker's host, mounted into containers."""

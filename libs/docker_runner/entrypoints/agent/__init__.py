"""The host agent: kills containers whose keepalive has expired, from outside and without the engine."""

VERSION = 2
"""Raise it with each change of the agent: a worker replaces an older one on its engine, and leaves a newer one."""

"""Shared parts of tests: real servers, unique names, waiting for conditions."""

"""Watchers that fail a test for what must never be."""

"""Processes started as users start them, against real servers and a real engine."""

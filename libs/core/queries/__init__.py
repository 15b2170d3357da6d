"""Queries: questions to bots and schedules, which their own code answers."""

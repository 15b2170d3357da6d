"""Runs schedules: each firing of a cron expression is one run, on time."""

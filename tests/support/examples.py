"""Hypothesis without its limit on an example's time, which on a busy machine says nothing about the code."""

from hypothesis import settings

PROFILE = "untimed"

settings.register_profile(PROFILE, deadline=None)
settings.load_profile(PROFILE)

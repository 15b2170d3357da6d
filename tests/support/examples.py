"""Hypothesis without its time limit of an example, which on a loaded machine has no meaning."""

from hypothesis import settings

PROFILE = "untimed"

settings.register_profile(PROFILE, deadline=None)
settings.load_profile(PROFILE)

"""Bots' code on this host: archives, the cache of unpacked code, and what a bot's description makes of it."""

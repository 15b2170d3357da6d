"""Bots' code on this host: archives, the cache of unpacked code, and the definition of an executable."""

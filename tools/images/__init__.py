"""The two images of bots: pulled, or replaced by stand-ins without access to a registry."""

"""A bot as a folder: read, checked, packed, announced."""

"""Files that run inside containers, copied there as they are."""

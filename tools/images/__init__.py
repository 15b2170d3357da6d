"""The two images that bots run in: pulled, or stood in for where the registry is out of reach."""

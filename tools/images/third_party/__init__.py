"""Third-party images of the manifests: pulled, or stood in for with the originals' entry points, users and paths."""

"""What runs inside the image of the registry."""

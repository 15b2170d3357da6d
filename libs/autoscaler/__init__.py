"""Segments in, replicas out: keeps as many worker pods as there are segments with entities."""

"""The overlays of deploy/kubernetes, applied to a real cluster."""

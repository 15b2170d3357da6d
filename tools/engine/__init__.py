"""A Docker engine on this machine: found, or installed and started."""

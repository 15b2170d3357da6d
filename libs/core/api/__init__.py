"""What every process answers to people and programs over HTTP, beside health and metrics: reading only."""

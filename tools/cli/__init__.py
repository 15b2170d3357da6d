"""The `runtime` command."""

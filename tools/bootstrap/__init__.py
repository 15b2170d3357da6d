"""What `./runtime` needs before its environment exists: the standard library only."""

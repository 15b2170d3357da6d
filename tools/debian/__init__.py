"""What Debian and Ubuntu package, got when it is first needed."""

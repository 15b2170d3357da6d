"""The code that `./runtime` runs before its environment exists; uses only the standard library."""

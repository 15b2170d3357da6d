"""The demonstration that `runtime demo` runs."""

"""What people deploy with, checked by the programs that will read it."""

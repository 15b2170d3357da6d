"""Debian's packages, installed or unpacked on first use."""

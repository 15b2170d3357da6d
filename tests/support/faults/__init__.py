"""Faults at a chosen moment: crashes, broken connections, hostile bots."""

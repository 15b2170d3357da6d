"""Faults at a chosen moment: deaths, cut connections, hostile bots."""

"""Secrets of bots: references and sealed values in configs, and where their values come from."""

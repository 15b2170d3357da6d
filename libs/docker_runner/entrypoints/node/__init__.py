"""The bot process of Node bots."""

"""The supervisor and the bot process of Node bots."""

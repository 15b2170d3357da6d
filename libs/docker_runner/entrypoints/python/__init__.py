"""The bot process of Python bots; the interpreter of the image runs them, without our packages."""

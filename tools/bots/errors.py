"""Errors of a bot's folder."""

from libs.core.errors import UserError


class BotFolderInvalid(UserError):
    """The folder cannot be deployed; the message names the file or field and the remedy."""

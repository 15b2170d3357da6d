"""Errors that end a command, and the exit code of each kind of error."""

import asyncio

import click

from tools.cli.exit_codes import ExitCode


class Failure(Exception):
    """Ends the command with a message and an exit code. An interrupt needs no message if nothing goes on after it."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: BaseException) -> ExitCode | None:
    """Return the exit code for an error with a sufficient message; None for a defect, which needs a traceback."""
    # Each of these libraries is slow to import, and an error of one exists only where it was imported already.
    from libs.core.errors import Permanent, Retryable, UserError
    from tools.debian.command import CommandFailedError
    from tools.engine.errors import EngineFailedError, EngineMissingError
    from tools.images.errors import ImageFailedError
    from tools.stack.binaries import BinaryMissingError
    from tools.stack.process import ProcessFailedError

    if isinstance(error, Failure):
        return error.code
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError | click.Abort):
        return ExitCode.INTERRUPTED
    if isinstance(error, UserError):
        return ExitCode.USAGE
    unreachable = (Retryable, EngineMissingError, EngineFailedError, ImageFailedError)
    if isinstance(error, (*unreachable, BinaryMissingError, CommandFailedError)):
        return ExitCode.UNREACHABLE
    if isinstance(error, Permanent | ProcessFailedError):
        return ExitCode.FAILED
    return None


def first_of(error: BaseException) -> BaseException:
    """The error that a group of errors is about: its first one, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

"""The root of the runtime's errors, grouped by the caller's reaction: retry, give up, or show it to the user."""


class RuntimeFault(Exception):
    """An error that the runtime detected. The message names the thing and, if there is one, the remedy."""


class Retryable(RuntimeFault):
    """Transient: retry later, with backoff. The requested change may have happened or not."""


class Permanent(RuntimeFault):
    """Retrying cannot help: give up this piece of work and record the reason."""


class UserError(Permanent):
    """The user's input (a setting, a flag, a bot) is wrong: show the message, without a traceback."""

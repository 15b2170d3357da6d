"""The root of the runtime's errors, branched by what the caller does about one: retry, give up, or tell the person."""


class RuntimeFault(Exception):
    """Something the runtime itself found wrong. The message names the thing and, where there is one, the remedy."""


class Retryable(RuntimeFault):
    """It may pass: try again later, with backoff. What was asked for may have happened or not."""


class Permanent(RuntimeFault):
    """Trying the same again cannot help: give up this piece of work and record why."""


class UserError(Permanent):
    """What a person wrote (a setting, a flag, a bot) is wrong: show them the message, without a traceback."""

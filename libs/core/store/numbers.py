"""Numbers of a config as passed to bots."""

_INTEGER_BELOW = 1e21
"""From here on JavaScript and the older runtime write a number with an exponent."""


def with_integers(value: object) -> object:
    """Return *value* with integers in place of floating point numbers without a fraction, at any depth.

    JSON has one kind of number, and an older runtime stored all numbers as doubles: a bot with `5` in its config would
    get `5.0`, which is neither an index nor a count.
    """
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _INTEGER_BELOW else value
    if isinstance(value, dict):
        return {name: with_integers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_integers(inner) for inner in value]
    return value

"""Numbers of a config as bots get them."""

_INTEGER_BELOW = 1e21
"""From here on a number is written with an exponent, by JavaScript and by the older runtime alike."""


def with_integers(value: object) -> object:
    """*value* with integers in place of floating point numbers without a fraction, at any depth.

    JSON has one kind of numbers, and an older runtime stored all of them as doubles: a bot that was given `5` would
    get `5.0`, which is neither an index nor a count.
    """
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _INTEGER_BELOW else value
    if isinstance(value, dict):
        return {name: with_integers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_integers(inner) for inner in value]
    return value

"""Texts of bots on a terminal: characters that would act on it are shown as escapes instead."""

import re

# Control characters but the tab, and those that change the direction or the lines of the text around them.
_ACTING = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ACTING_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""One line of *text* without effects on a terminal: ESC is shown as ``\x1b``."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def harmless_lines(text: str) -> str:
    """The lines of *text*, each as :func:`harmless` shows it."""
    return "\n".join(map(harmless, text.split("\n")))


def harmless_json(text: str) -> str:
    """The same JSON, with characters that its encoder leaves as they are, and that act on a terminal, escaped."""
    return _ACTING_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

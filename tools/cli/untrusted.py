"""Show untrusted text on a terminal: characters that would affect the terminal are shown as escapes."""

import re

# Control characters except the tab, and those that change the direction or the lines of the surrounding text.
_ACTING = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ACTING_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""Return one line of *text* without effects on a terminal: ESC is shown as ``\x1b``."""
    return _ACTING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def harmless_lines(text: str) -> str:
    """Return the lines of *text*, each as by :func:`harmless`."""
    return "\n".join(map(harmless, text.split("\n")))


def harmless_json(text: str) -> str:
    """Return the same JSON, with characters escaped that its encoder keeps and that affect a terminal."""
    return _ACTING_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

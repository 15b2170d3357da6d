"""Show untrusted text safely: ids and output may contain characters that hide, reorder or imitate others."""

import re
from datetime import UTC, datetime

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
# Control characters; marks that change the direction of text; zero-width spaces; unusual line ends;
# tags; and lone surrogates, which cannot be encoded in UTF-8.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def visible(text: object) -> str:
    """Return *text* with invisible characters as codes such as ``\\u{202e}``. Newlines and tabs stay; colours go."""
    plain = _COLOURS.sub("", str(text).replace("\r\n", "\n"))
    return _HIDDEN.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", plain)


def shortened(text: object, characters: int = 60) -> str:
    """Return *text* in one line of limited length: the middle is omitted."""
    line = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    if len(line) <= characters:
        return line
    return f"{line[: characters * 2 // 3]}…{line[-(characters // 4) :]}"


def duration(seconds: float | None) -> str:
    """Return a duration in its two largest units. Nothing for None."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, smaller, smaller_name in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole // _MINUTE} min {whole % _MINUTE} s" if whole >= _MINUTE else f"{whole} s"


def ago(moment: datetime | float | None, now: datetime | None = None) -> str:
    """Return the approximate distance of *moment* (Unix seconds, if a number) from now."""
    if moment is None:
        return ""
    seconds = _seconds_since(moment, now)
    about = " ".join(duration(abs(seconds)).split(" ")[:2])
    return f"in {about}" if seconds < 0 else f"{about} ago"


def age(moment: datetime | float | None, now: datetime | None = None) -> str:
    """Return how long ago it began."""
    return "" if moment is None else duration(_seconds_since(moment, now))


def clock(moment: datetime | float | None) -> str:
    """Return the moment in UTC, to the second."""
    if moment is None:
        return ""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(number: float | None) -> str:
    """Return bytes in a suitable unit."""
    if number is None:
        return ""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _seconds_since(moment: datetime | float, now: datetime | None) -> float:
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return ((now or datetime.now(UTC)) - moment).total_seconds()

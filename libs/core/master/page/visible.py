"""Text of strangers as it can be shown: ids and output may hold characters that hide, reorder or imitate others."""

import re
from datetime import UTC, datetime

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
# Control characters; marks that change the direction of what follows; spaces of no width; ends of lines that are none;
# tags; and halves of characters, which no UTF-8 can say.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def visible(text: object) -> str:
    """*text* with what could not be seen as its code: ``\\u{202e}``. Line feeds and tabs stay; colours go."""
    plain = _COLOURS.sub("", str(text).replace("\r\n", "\n"))
    return _HIDDEN.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", plain)


def shortened(text: object, characters: int = 60) -> str:
    """In one line, and not longer than that: the middle is left out."""
    line = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    if len(line) <= characters:
        return line
    return f"{line[: characters * 2 // 3]}…{line[-(characters // 4) :]}"


def duration(seconds: float | None) -> str:
    """How long that is, as people say it: the two largest units. Nothing for None."""
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
    """About how long ago, or in how long, *moment* (Unix seconds, when a number) is."""
    if moment is None:
        return ""
    seconds = _seconds_since(moment, now)
    about = " ".join(duration(abs(seconds)).split(" ")[:2])
    return f"in {about}" if seconds < 0 else f"{about} ago"


def age(moment: datetime | float | None, now: datetime | None = None) -> str:
    """How long something lasts that began then."""
    return "" if moment is None else duration(_seconds_since(moment, now))


def clock(moment: datetime | float | None) -> str:
    """The moment itself, to the second, in UTC."""
    if moment is None:
        return ""
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(number: float | None) -> str:
    """Bytes in the unit that suits them."""
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

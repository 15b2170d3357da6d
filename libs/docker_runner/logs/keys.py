"""Keys of bots' output in the logs bucket.

The key of a day is ``logs/{id}/{YYYYMMDD}.log``, with the id unchanged. Only characters that an S3 server would refuse
or a client would misinterpret are changed, segment by segment (an id may contain ``/``), and so that no two ids share a
key:

* ``%``, ``\\``, control characters and lone surrogates are percent-encoded (``%25``, ``%5C``, ``%0A``);
* a segment ``.`` or ``..`` has its dots encoded (``%2E%2E``), and an empty segment becomes ``%2F``;
* a segment of over 200 bytes keeps its first characters and ends in ``%~`` and a digest, as file-backed servers end
  names at 255 bytes; an id of over 800 bytes is shortened the same way as a whole.

Output of a host that no longer owns the bot is stored beside the day's object, in ``{YYYYMMDD}.{writer}.log``.
"""

import hashlib
import re

LOGS_PREFIX = "logs/"
"""The prefix of all logs."""

INDEX_FOLDER = ".the0/index/"
"""The prefix of all indexes, followed by the key of the log. An index is removed with its log."""

_ENCODED = re.compile(r"[%\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DAY_OBJECT = re.compile(r"(\d{8})(?:\.([0-9a-z]+))?\.log$")
_MAX_SEGMENT_BYTES = 200
_MAX_ID_BYTES = 800


def log_folder(entity_id: str) -> str:
    """Return the prefix of all days of this id, with the slash at its end."""
    segments = "/".join(_segment(segment) for segment in entity_id.split("/"))
    return f"logs/{_shortened(segments, entity_id, _MAX_ID_BYTES)}/"


def log_key(entity_id: str, day: str, writer: str = "") -> str:
    """Return the key of a UTC day, such as ``20260131``; with *writer* that of a host that does not own the bot."""
    return f"{log_folder(entity_id)}{day}.{writer}.log" if writer else f"{log_folder(entity_id)}{day}.log"


def index_key(key: str) -> str:
    """Return the key of the index for the log at *key*, which stores when and how its output came."""
    return f"{INDEX_FOLDER}{key}"


def day_of_key(entity_id: str, key: str) -> str | None:
    """Return the day of the object's output; None for an object that is not a log of this id."""
    folder = log_folder(entity_id)
    found = _DAY_OBJECT.match(key.removeprefix(folder)) if key.startswith(folder) else None
    return found[1] if found is not None else None


def folder_and_day(key: str) -> tuple[str, str] | None:
    """Return the prefix of all days of the id of the log at *key*, and its day; None for other objects."""
    folder, slash, file = key.rpartition("/")
    found = _DAY_OBJECT.fullmatch(file)
    if found is None or not folder.startswith(LOGS_PREFIX):
        return None
    return folder + slash, found[1]


def _segment(segment: str) -> str:
    if segment in (".", ".."):
        return segment.replace(".", "%2E")
    if not segment:
        return "%2F"
    encoded = _ENCODED.sub(lambda found: _percent(found[0]), segment)
    return _shortened(encoded, segment, _MAX_SEGMENT_BYTES)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="surrogatepass"))


def _shortened(text: str, original: str, max_bytes: int) -> str:
    if len(text.encode()) <= max_bytes:
        return text
    digest = hashlib.sha256(original.encode(errors="surrogatepass")).hexdigest()[:32]
    # Cut between characters, and not within an encoded one, which is three characters of ASCII.
    start = text.encode()[: max_bytes - 64].decode(errors="ignore")
    start = re.sub(r"%[0-9A-F]?$|/+$", "", start)
    return f"{start}%~{digest}"

"""Labels of workers, and the labels that an entity requires of its worker. Pure.

A placement is a set of labels. Its canonical text (``egress=a, region=eu`` becomes ``egress=a,region=eu``) is stored in
the partitions for entities with that placement; partitions without one are for all others.
"""

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

from libs.core.errors import UserError

Labels = frozenset[tuple[str, str]]
"""Pairs of a key and a value. A worker may have several values of one key."""

MAX_LABELS = 16
_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,61}[A-Za-z0-9])?")
_FORM = 'write KEY=VALUE, each 1 to 63 letters, digits, ".", "_" or "-", such as "egress=static-1"'
_OBJECT = 'must be an object such as {"egress": "static-1"}'
_SHOWN_CHARACTERS = 200


class PlacementRejected(UserError):
    """``config.placement`` is malformed."""

    def __init__(self, value: object, reason: str) -> None:
        super().__init__(f"config.placement: {repr(value)[:_SHOWN_CHARACTERS]} {reason}")
        self.value, self.reason = value, reason


def labels_in(text: str) -> Labels:
    """Return the labels in *text*, separated by commas: ``egress=static-1, region=eu``.

    Raises:
        ValueError: names the part that is none.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > MAX_LABELS:
        raise ValueError(f"{len(parts)} labels are too many; at most {MAX_LABELS} are possible")
    return frozenset(map(_label, parts))


def placement_of(config: Mapping[str, object]) -> Labels:
    """Return the labels in ``config.placement`` that a worker must have; none without it.

    It is an object (``{"egress": "static-1"}``), a list of ``KEY=VALUE``, or text like WORKER_LABELS.

    Raises:
        PlacementRejected: it is malformed.
    """
    value = config.get("placement")
    if value is None:
        return frozenset()
    try:
        if isinstance(value, str):
            return labels_in(value)
        if isinstance(value, Mapping):
            texts = [f"{_text(key)}={_text(one)}" for key, one in value.items()]
        elif isinstance(value, list | tuple):
            texts = [_text(one) for one in value]
        else:
            raise ValueError(_OBJECT)  # noqa: TRY004 - one kind of error for all
        if any("," in text for text in texts):
            raise ValueError(f"has a comma; {_FORM}")
        return labels_in(",".join(texts))
    except ValueError as error:
        raise PlacementRejected(value, str(error)) from None


def key_of(config: object) -> str:
    """Return the canonical text of ``config.placement``; empty without one, and when it or the config is malformed."""
    if not isinstance(config, Mapping):
        return ""
    try:
        return written(placement_of(config))
    except PlacementRejected:
        # Its owner sees the error where the bot is to be started: any worker reports it.
        return ""


def written(labels: Labels) -> str:
    """Return the canonical text of *labels*."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels))


@lru_cache(maxsize=4096)
def read(text: str) -> Labels:
    """Return the labels of a canonical text; a malformed part is a label that no worker has."""
    return frozenset((part.partition("=")[0], part.partition("=")[2]) for part in text.split(",") if part)


def lacking(placement: str, workers: Collection[Labels]) -> str:
    """Return what *workers* lack for *placement*, as text; empty when one of them has all of its labels.

    The labels are those that the best of the workers lacks.
    """
    wanted = read(placement)
    missing = min((wanted - labels for labels in workers), key=lambda lost: (len(lost), sorted(lost)), default=wanted)
    if not missing:
        return ""
    if len(wanted) == 1:
        return f"needs a worker with the label {written(wanted)}, which no worker has"
    return f"needs a worker with the labels {written(wanted)}; the best one lacks {written(missing)}"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"has a part that is not text; {_FORM}")  # noqa: TRY004 - as above
    return value


def _label(part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals or _KEY.fullmatch(key) is None or _VALUE.fullmatch(value) is None:
        raise ValueError(f"{part!r} is no label; {_FORM}")
    return key, value

"""The label of a container about its secrets: how their values are found again, and how they are verified. Pure.

The label is for a worker that sees neither the container's folder nor its spec, such as one with another TEMP_DIR. It
has no value.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from libs.core.secrets.references import Reference

# Each list of containers has all labels.
_MOST_BYTES = 4096
# Slow, so that guesses of values are expensive for everybody who may inspect the container.
_COST_N = 2**14
_COST_R = 8
_DIGEST_BYTES = 8


@dataclass(frozen=True)
class SecretLabel:
    """What the label says.

    Attributes:
        digest: of the values; "" in a malformed label.
        references: to the values; None where they are too long for a label.
    """

    digest: str = ""
    owner: str = ""
    references: Sequence[Mapping[str, str]] | None = None

    def verifies(self, values: Iterable[str], token: str) -> bool:
        """Whether *values* are those that the container was started with. Takes 50 ms of a processor."""
        return hmac.compare_digest(self.digest, _digest(values, token))


def label_of(references: Iterable[Reference], owner: str, values: Iterable[str], token: str) -> str:
    """Return the label of the container with the *token*. Takes 50 ms of a processor."""
    digest = _digest(values, token)
    named = [{str(reference.kind): reference.text} for reference in references]
    text = json.dumps({"digest": digest, "owner": owner, "references": named})
    return text if len(text) <= _MOST_BYTES else json.dumps({"digest": digest})


def parsed(label: str) -> SecretLabel | None:
    """Return what *label* says; None for an empty one, which a container without secrets has."""
    if not label:
        return None
    try:
        found = json.loads(label)
        references = found.get("references")
        named = None if references is None else [{str(k): str(v) for k, v in one.items()} for one in references]
        return SecretLabel(str(found["digest"]), str(found.get("owner", "")), named)
    except (ValueError, TypeError, KeyError, AttributeError):
        return SecretLabel()


def _digest(values: Iterable[str], token: str) -> str:
    content = json.dumps(sorted(values)).encode()
    return hashlib.scrypt(content, salt=token.encode(), n=_COST_N, r=_COST_R, p=1, dklen=_DIGEST_BYTES).hex()

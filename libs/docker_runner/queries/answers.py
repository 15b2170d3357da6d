"""Check what a bot's code answers: a JSON object with ``status``, of bounded size. Pure."""

from libs.core.hostile_json import Bounds, Refused, parse
from libs.core.queries.messages import QueryAnswer, QueryFault, failed
from libs.docker_runner.executable import to_json

_DEPTH, _VALUES = 64, 200_000
_STATUSES = ("ok", "error")


def answer_of(body: bytes, limit_bytes: int) -> QueryAnswer:
    """Return the answer in *body*, or why it cannot be used. NaN and infinities, which JSON lacks, become null."""
    found = parse(body, Bounds(bytes=limit_bytes, depth=_DEPTH, values=_VALUES))
    if isinstance(found, Refused):
        return failed(QueryFault.BAD_ANSWER, f"the answer of the bot {found}")
    answer = found.value
    if not isinstance(answer, dict) or answer.get("status") not in _STATUSES:
        return failed(QueryFault.BAD_ANSWER, "the answer of the bot is no JSON object with the status ok or error")
    is_loose = b"NaN" in body or b"Infinity" in body
    return QueryAnswer(to_json(answer).encode("utf-8", "replace") if is_loose else body)

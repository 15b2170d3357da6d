"""Choose the revision for a rollback, and describe revisions for users. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from libs.core.errors import UserError
from libs.core.storage.code_keys import TOOLS_ROOT
from libs.core.store.entities import CodeLocation, Entity
from libs.core.store.releases import effective
from libs.core.store.revisions import Revision, RunsOf

_DIGEST_CHARACTERS = 12
_DIGEST = re.compile(r"[0-9a-f]{64}")


class NoSuchRevision(UserError):
    """The history does not have the requested revision, or none to roll back to."""


@dataclass(frozen=True)
class Described:
    """One revision with its runs; *state* is ``running``, ``replaced``, ``rejected``, ``pending`` …"""

    revision: Revision
    state: str
    runs: int
    seconds: float
    last: RunsOf | None


def described(entity: Entity, revisions: Sequence[Revision], runs: Sequence[RunsOf], state_now: str) -> list[Described]:
    """Return *revisions*, the latest first, with the runs of each.

    Args:
        state_now: the state of the bot, which is that of its effective revision.
    """
    effective_revision = _floor(revisions, effective(entity).revision)
    found = []
    upper: int | None = None
    for one in revisions:
        # The revision in a document also counts events that came too late, and changed nothing.
        own = [run for run in runs if run.revision >= one.revision and (upper is None or run.revision < upper)]
        upper = one.revision
        found.append(
            Described(
                one,
                state_now if one.revision == effective_revision else _past(one),
                sum(run.runs for run in own),
                sum(run.seconds for run in own),
                own[0] if own else None,
            )
        )
    return found


def target_of(entity: Entity, revisions: Sequence[Revision], wanted: int | None) -> Revision:
    """Return the revision *wanted*, or by default the last accepted one before the one that runs, other than that.

    Raises:
        NoSuchRevision: there is none; the message lists those that there are.
    """
    current = _floor(revisions, effective(entity).revision)
    if wanted is not None:
        found = next((one for one in revisions if one.revision == wanted), None)
        if found is None:
            known = ", ".join(str(one.revision) for one in revisions) or "none"
            raise NoSuchRevision(
                f"the history of {entity.id!r} has no revision {wanted}; it has {known}, "
                f"see `runtime bot history {entity.id}`"
            )
        return found
    now = next((one for one in revisions if one.revision == current), None)
    for one in revisions:
        if current is not None and one.revision >= current:
            continue
        is_other = now is None or (one.custom.get("filePath"), one.config_digest) != (
            now.custom.get("filePath"),
            now.config_digest,
        )
        if one.accepted and not one.rejection and is_other:
            return one
    raise NoSuchRevision(
        f"the history of {entity.id!r} has no earlier revision that ran; `runtime bot history {entity.id}` lists all"
    )


def code_of(revision: Revision) -> CodeLocation | None:
    """Return the location of its code; None without one."""
    return Entity.of({"id": revision.bot_id, "custom": revision.custom}).code


def code_name(revision: Revision) -> str:
    """Return the short digest of its code; else the version of its object; "" when neither is known."""
    code = code_of(revision)
    if code is not None and code.sha256:
        return code.sha256[:_DIGEST_CHARACTERS]
    if code is not None and code.key.startswith(TOOLS_ROOT) and (found := _DIGEST.search(code.key)) is not None:
        return found[0][:_DIGEST_CHARACTERS]
    return revision.code_etag.strip('"')[:_DIGEST_CHARACTERS]


def row_of(one: Described) -> dict[str, Any]:
    """Return what is shown of a revision. It has no value of the config."""
    revision, last = one.revision, one.last
    return {
        "revision": revision.revision,
        "at": revision.at,
        "who": revision.who,
        "version": revision.version,
        "code": code_name(revision),
        "config_digest": revision.config_digest[:_DIGEST_CHARACTERS],
        "state": one.state,
        "runs": one.runs,
        "seconds": round(one.seconds, 1),
        "ended_at": last.last_ended_at if last is not None else None,
        "end_reason": last.last_reason if last is not None else "",
        "exit_code": last.last_exit_code if last is not None else None,
        "detail": revision.rejection or (last.last_message if last is not None else ""),
        "withheld": [".".join(str(part) for part in path) for path in revision.withheld],
    }


def _past(revision: Revision) -> str:
    if revision.rejection:
        return "rejected"
    return "replaced" if revision.accepted else "pending"


def _floor(revisions: Sequence[Revision], number: int) -> int | None:
    """Return the number under which the history has the revision *number* of the document."""
    return max((one.revision for one in revisions if one.revision <= number), default=None)

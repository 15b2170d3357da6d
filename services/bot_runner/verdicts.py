"""Results of the check of a bot's newest version, before it may replace the running one."""

from dataclasses import dataclass

from libs.core.errors import UserError
from libs.core.secrets.errors import SecretRefused
from libs.core.store.releases import Rejection, RejectionReason
from libs.docker_runner.errors import (
    ArchiveRejected,
    CodeMissing,
    CodeReplaced,
    DataMissing,
    DataRejected,
    EntrypointMissing,
    LimitsRejected,
    UnknownRuntime,
)

_REASONS: tuple[tuple[type[UserError], RejectionReason], ...] = (
    (LimitsRejected, RejectionReason.LIMITS),
    (UnknownRuntime, RejectionReason.RUNTIME),
    (CodeMissing, RejectionReason.CODE_MISSING),
    (CodeReplaced, RejectionReason.CODE_REPLACED),
    (ArchiveRejected, RejectionReason.ARCHIVE),
    (DataMissing, RejectionReason.DATA_MISSING),
    (DataRejected, RejectionReason.DATA),
    (EntrypointMissing, RejectionReason.ENTRYPOINT),
    (SecretRefused, RejectionReason.SECRET),
)


@dataclass(frozen=True)
class Ready:
    """It can be started, and everything for its start is on this host. *code_etag* is the version of its code."""

    code_etag: str


@dataclass(frozen=True)
class Refused:
    """Only its owner can correct it. Checked again at *check_again_at* (Unix seconds), in case the code appears."""

    rejection: Rejection
    check_again_at: float


@dataclass(frozen=True)
class Unknown:
    """A dependency was unreachable, named in *detail*. It is checked again at *check_again_at* (Unix seconds)."""

    detail: str
    check_again_at: float


Verdict = Ready | Refused | Unknown


def rejection_for(error: UserError, revision: int) -> Rejection:
    """Return the rejection of the version of *revision* because of *error*."""
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), RejectionReason.DEFINITION)
    return Rejection(revision, reason, str(error))

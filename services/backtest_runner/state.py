"""The state of a backtest's runs in its document. Beside the contract's fields there is one field `backtest`:
`claim` (the owner of the run, and its attempt), `outcome` (the final result) and `cancel` (a user's request).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.core.process.isolation import unexpected
from libs.core.store.entities import Entity

CLAIM = "backtest.claim"
CLAIMED_RUN = "backtest.claim.run_id"
OUTCOME = "backtest.outcome"
CANCEL = "backtest.cancel"
STATUS = "status"


@dataclass(frozen=True)
class Claim:
    """One attempt, and its owner.

    Attributes:
        attempt: from 1 on.
        released: its worker stopped in order before the run ended, so that the attempt does not count.
    """

    run_id: str
    worker: str
    host: str
    epoch: int
    attempt: int
    at: datetime
    released: bool = False

    def to_document(self) -> dict[str, Any]:
        """Return it as stored."""
        return dict(self.__dict__)

    @classmethod
    def from_document(cls, document: object) -> "Claim | None":
        """Parse the result of :meth:`to_document`; None without one."""
        if not isinstance(document, Mapping):
            return None
        return cls(**{name: document[name] for name in cls.__dataclass_fields__ if name in document})

    @property
    def counted(self) -> int:
        """How many attempts have been used, including this one."""
        return self.attempt - 1 if self.released else self.attempt


@dataclass(frozen=True)
class Outcome:
    """The outcome of a backtest, with everything that its completion needs. Once it is stored, it never changes.

    Attributes:
        reason: one word: ``finished``, or the reason of the failure.
        error: a sentence for users; empty on success.
        analysis, logs: the bytes themselves when small; None when they are in the storage under the run's id.
    """

    run_id: str
    success: bool
    reason: str
    error: str
    ended_at: datetime
    analysis: bytes | None
    logs: bytes | None

    def to_document(self) -> dict[str, Any]:
        """Return it as stored."""
        return dict(self.__dict__)

    @classmethod
    def from_document(cls, document: object) -> "Outcome | None":
        """Parse the result of :meth:`to_document`; None without one."""
        if not isinstance(document, Mapping):
            return None
        return cls(**{name: document.get(name) for name in cls.__dataclass_fields__})  # type: ignore[arg-type]


@dataclass(frozen=True)
class BacktestState:
    """One backtest by its document.

    Attributes:
        cancelled_by: the user who cancelled it; None otherwise.
    """

    entity: Entity
    claim: Claim | None
    outcome: Outcome | None
    cancelled_by: str | None

    @property
    def id(self) -> str:
        """The backtest's id."""
        return self.entity.id

    @property
    def made(self) -> object:
        """The id that differs for another document created later under the same id."""
        return self.entity.document.get("_id")

    @property
    def may_begin(self) -> bool:
        """Whether there is work for it now."""
        return self.outcome is not None or self.cancelled_by is not None or self.entity.should_run

    @property
    def order(self) -> tuple[bool, str]:
        """The sort key: first those that are nearly done, then the oldest."""
        return (self.outcome is None and self.claim is None, str(self.entity.document.get("_id")))

    @property
    def received_at(self) -> float | None:
        """Unix seconds of its document's creation, from MongoDB's id; None without such an id."""
        made = getattr(self.entity.document.get("_id"), "generation_time", None)
        return made.timestamp() if isinstance(made, datetime) else None

    @classmethod
    def of(cls, entity: Entity) -> "BacktestState":
        """Read a document, also one of an older runtime."""
        ours = entity.document.get("backtest")
        ours = ours if isinstance(ours, Mapping) else {}
        cancel = ours.get("cancel")
        return cls(
            entity,
            Claim.from_document(ours.get("claim")),
            Outcome.from_document(ours.get("outcome")),
            str(cancel.get("by") or "an unknown user") if isinstance(cancel, Mapping) else None,
        )


def keeps_place(entity: Entity, run_id: str) -> bool:
    """Whether the backtest still has to run, and not later on another worker; see :class:`OwnerQuotas`."""
    try:
        state = BacktestState.of(entity)
    except Exception as error:  # noqa: BLE001 - one broken document must not keep its owner's others waiting
        unexpected("read backtest", error, backtest=entity.id)
        return False
    released = state.claim is not None and state.claim.released and state.claim.run_id == run_id
    return entity.should_run and state.outcome is None and not released

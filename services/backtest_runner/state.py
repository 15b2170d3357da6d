"""What a backtest's document says about its runs. Beside the contract's fields there is one of ours, `backtest`:
`claim` (who runs it, and which attempt that is), `outcome` (what it came to) and `cancel` (a person's wish).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.core.store.entities import Entity

CLAIM = "backtest.claim"
CLAIMED_RUN = "backtest.claim.run_id"
OUTCOME = "backtest.outcome"
CANCEL = "backtest.cancel"
STATUS = "status"


@dataclass(frozen=True)
class Claim:
    """One attempt, and in whose hands it is.

    Attributes:
        attempt: from 1 on.
        released: its worker stopped in good order before the run ended, so that the attempt does not count.
    """

    run_id: str
    worker: str
    host: str
    epoch: int
    attempt: int
    at: datetime
    released: bool = False

    def to_document(self) -> dict[str, Any]:
        """As it is stored."""
        return dict(self.__dict__)

    @classmethod
    def from_document(cls, document: object) -> "Claim | None":
        """Read what :meth:`to_document` wrote; None when there is none."""
        if not isinstance(document, Mapping):
            return None
        return cls(**{name: document[name] for name in cls.__dataclass_fields__ if name in document})

    @property
    def counted(self) -> int:
        """How many attempts have been used up with it."""
        return self.attempt - 1 if self.released else self.attempt


@dataclass(frozen=True)
class Outcome:
    """What a backtest came to, with all that is needed to hand it over. Once it is stored, it never changes.

    Attributes:
        reason: one word: ``finished``, or why it failed.
        error: a sentence for people; empty on success.
        analysis, logs: the bytes themselves when they are few; None when they lie in the storage under the run's id.
    """

    run_id: str
    success: bool
    reason: str
    error: str
    ended_at: datetime
    analysis: bytes | None
    logs: bytes | None

    def to_document(self) -> dict[str, Any]:
        """As it is stored."""
        return dict(self.__dict__)

    @classmethod
    def from_document(cls, document: object) -> "Outcome | None":
        """Read what :meth:`to_document` wrote; None when there is none."""
        if not isinstance(document, Mapping):
            return None
        return cls(**{name: document.get(name) for name in cls.__dataclass_fields__})  # type: ignore[arg-type]


@dataclass(frozen=True)
class BacktestState:
    """One backtest as its document has it.

    Attributes:
        cancelled_by: who wants it cancelled; None when nobody does.
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
        """What tells its document from another one that is made under the same id later."""
        return self.entity.document.get("_id")

    @property
    def may_begin(self) -> bool:
        """Whether there is something to do for it now."""
        return self.outcome is not None or self.cancelled_by is not None or self.entity.should_run

    @property
    def order(self) -> tuple[bool, str]:
        """What is nearly done comes first, then who came first."""
        return (self.outcome is None and self.claim is None, str(self.entity.document.get("_id")))

    @property
    def received_at(self) -> float | None:
        """Unix seconds at which its document was made, as MongoDB's ids tell it; None when they do not."""
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
            str(cancel.get("by") or "somebody") if isinstance(cancel, Mapping) else None,
        )

"""The known data of a backtest: its document until it is completed, then its objects and its runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from libs.core.hostile_json import Bounds, Refused, parse
from libs.core.process.service import BACKTEST_RUNNER
from libs.core.run_record import RunRecord
from libs.core.storage.errors import ObjectMissing
from libs.core.storage.object_store import ObjectStore
from libs.core.store.entities import Entity
from libs.core.store.ownership import Ownership
from libs.core.store.runs import RunFilter, RunStore
from libs.core.store.shown_state import Shown, shown
from services.backtest_runner.objects import analysis_key, logs_key
from services.backtest_runner.parameters import Parameters
from tools.backtests.findings import failure_of
from tools.cli.connections import Connections
from tools.cli.entity_states import stored_status_of

# More than a current worker stores, since older ones stored everything.
_BOUNDS = Bounds(bytes=256 * 1024 * 1024, depth=200, values=20_000_000)


@dataclass(frozen=True)
class Known:
    """All data of one backtest.

    Attributes:
        entity: None after its completion.
        analysis: None before its completion, and when it is *refused*: then it is in the storage, but cannot be shown.
        owner: the owner of its segment, before its completion.
        parameters: its config with secrets masked, and which of its keys are unknown; None when they were not stored.
    """

    id: str
    entity: Entity | None
    analysis: Mapping[str, Any] | None
    runs: list[RunRecord]
    owner: Ownership | None = None
    refused: Refused | None = None
    parameters: Parameters | None = None

    @property
    def state(self) -> str:
        """The state in one word."""
        return self.shown.state

    @property
    def shown(self) -> Shown:
        """Its state, with the reason if any."""
        if self.entity is not None:
            return state_of(self.entity, self.owner)
        return Shown("failed" if self.failure is not None else "finished")

    @property
    def failure(self) -> str | None:
        """Why it failed; None when it has not."""
        if self.entity is not None or self.refused is not None:
            return None
        return failure_of(self.analysis) if self.analysis is not None else "the result is not in the storage"


def state_of(entity: Entity, owner: Ownership | None) -> Shown:
    """Return the state before the completion: waiting, running, completing, killed, off or unknown."""
    return shown(stored_status_of(entity), owner)


async def known_of(servers: Connections, backtest_id: str) -> Known | None:
    """Return the known data; None without any."""
    entity = await (await servers.entities(BACKTEST_RUNNER)).get(backtest_id)
    owners = await (await servers.owners(BACKTEST_RUNNER)).of([entity.segment_id] if entity is not None else [])
    runs = await RunStore(await servers.database(BACKTEST_RUNNER)).list(RunFilter(entity_id=backtest_id))
    bucket = servers.storage_settings().results_bucket
    content = await _read(servers.storage(), bucket, analysis_key(backtest_id)) if entity is None else None
    if entity is None and content is None and not runs:
        return None
    owner = owners.get(entity.segment_id) if entity is not None else None
    stored = next((run.parameters for run in runs if run.parameters is not None), None)
    known = Known(
        backtest_id,
        entity,
        None,
        [replace(run, parameters=None) for run in runs],
        owner,
        parameters=Parameters.of(entity) if entity is not None else Parameters.from_text(stored),
    )
    if content is None:
        return known
    parsed = parse(content, _BOUNDS)
    if isinstance(parsed, Refused):
        return replace(known, refused=parsed)
    # An older runtime stored any value that `main` returned.
    return replace(known, analysis=parsed.value if isinstance(parsed.value, Mapping) else {"results": parsed.value})


async def output_of(servers: Connections, backtest_id: str) -> str:
    """Return the whole output of a completed backtest; empty without output."""
    content = await _read(servers.storage(), servers.storage_settings().results_bucket, logs_key(backtest_id))
    return (content or b"").decode(errors="replace")


async def _read(store: ObjectStore, bucket: str, key: str) -> bytes | None:
    try:
        return await store.get(bucket, key)
    except ObjectMissing:
        return None

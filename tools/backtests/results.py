"""What is known of a backtest: its document while it is under way, and then its objects and its runs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from libs.core.object_store import ObjectMissing, ObjectStore
from libs.core.run_record import RunRecord
from libs.core.service import BACKTEST_RUNNER
from libs.core.store.entities import Entity
from libs.core.store.runs import RunFilter, RunStore
from services.backtest_runner.objects import analysis_key, logs_key
from tools.cli.connections import Connections


@dataclass(frozen=True)
class Known:
    """Everything that there is of one backtest. *entity* is None once it is done, *analysis* None before."""

    id: str
    entity: Entity | None
    analysis: Mapping[str, Any] | None
    runs: list[RunRecord]

    @property
    def state(self) -> str:
        """In one word."""
        if self.entity is not None:
            return state_of(self.entity)
        return "failed" if self.analysis is None or self.analysis.get("status") == "failed" else "finished"


def state_of(entity: Entity) -> str:
    """How a backtest is that is not done: waiting, running, completing, held or off."""
    told = entity.status.get("state")
    if told == "completing":
        return "completing"
    if entity.held is not None:
        return "held"
    return str(told or ("waiting" if entity.enabled else "off"))


async def known_of(servers: Connections, backtest_id: str) -> Known | None:
    """What is known; None when nothing is."""
    entity = await (await servers.entities(BACKTEST_RUNNER)).get(backtest_id)
    runs = await RunStore(await servers.database(BACKTEST_RUNNER)).list(RunFilter(entity_id=backtest_id))
    bucket = servers.storage_settings().results_bucket
    content = await _read(servers.storage(), bucket, analysis_key(backtest_id)) if entity is None else None
    if entity is None and content is None and not runs:
        return None
    analysis = json.loads(content) if content is not None else None
    return Known(backtest_id, entity, analysis, runs)


async def output_of(servers: Connections, backtest_id: str) -> str:
    """The whole output of one that is done; empty when there is none."""
    content = await _read(servers.storage(), servers.storage_settings().results_bucket, logs_key(backtest_id))
    return (content or b"").decode(errors="replace")


async def _read(store: ObjectStore, bucket: str, key: str) -> bytes | None:
    try:
        return await store.get(bucket, key)
    except ObjectMissing:
        return None

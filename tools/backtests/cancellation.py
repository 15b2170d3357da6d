"""Request the cancellation of a backtest, in its document."""

from datetime import UTC, datetime

from libs.core.events.wakeups import WakeUps
from libs.core.process.service import BACKTEST_RUNNER
from services.backtest_runner.state import CANCEL, OUTCOME
from tools.cli.connections import Connections
from tools.cli.local_user import user_of_this_machine


async def request_cancellation(servers: Connections, backtest_id: str) -> bool:
    """Write the request, and wake the owner of its segment. Return False without a document that has no outcome."""
    entities = await servers.entities(BACKTEST_RUNNER)
    entity = await entities.get(backtest_id)
    request = {"by": user_of_this_machine(), "at": datetime.now(UTC)}
    if entity is None or not await entities.compare_and_set(backtest_id, {OUTCOME: None}, {CANCEL: request}):
        return False
    await WakeUps(await servers.nats_if_up(), BACKTEST_RUNNER.name).segments_changed([entity.segment_id])
    return True

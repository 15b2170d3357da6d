"""Update a schedule's own fields after an event: the next time, if the expression has changed."""

import time
from collections.abc import Callable, Mapping

from libs.core.errors import UserError
from libs.core.store.entity_writer import Derive
from services.bot_scheduler.policy import read_definition
from services.bot_scheduler.state import NEXT


def derive_next(clock: Callable[[], float] = time.time) -> Derive:
    """Check a schedule before it is written into MongoDB, and return its own fields.

    It raises UserError for an invalid config, so that the event becomes a dead letter and the stored version
    stays. An unchanged expression and zone keep the next time.
    """

    def derive(document: Mapping[str, object], before: Mapping[str, object] | None) -> Mapping[str, object]:
        schedule = read_definition(_object(document.get("config"))).schedule
        if before is not None and before.get(NEXT) and _meaning(before) == schedule.meaning:
            return {}
        # An already claimed firing is not due again because its expression has changed.
        fired_at = _object(before.get("scheduler")).get("fired_at") if before is not None else None
        after = max(clock(), float(fired_at)) if isinstance(fired_at, int | float) else clock()
        return {NEXT: schedule.next_after(after)}

    return derive


def _meaning(document: Mapping[str, object]) -> tuple[object, ...] | None:
    try:
        return read_definition(_object(document.get("config"))).schedule.meaning
    except UserError:
        return None


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}

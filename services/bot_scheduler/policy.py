"""The policies in a schedule's config: when it fires, and how overlaps, misfires and failures are handled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from libs.core.errors import UserError
from services.bot_scheduler.cron import Schedule, parse

MAX_RETRY_DELAY_SECONDS = 300.0
_MAX_RETRIES = 100
_WEEK_SECONDS = 7 * 86_400.0

E = TypeVar("E", bound=StrEnum)


class PolicyInvalid(UserError):
    """A field of the config is invalid; the schedule's owner must correct it."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"config.{field} is {value!r}; it must be {allowed}")
        self.field = field
        self.value = value


class Overlap(StrEnum):
    """The handling of a firing while the previous run is active.

    SKIP: it does not run. QUEUE: it runs afterwards, in order. REPLACE: the previous run is stopped.
    """

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


class Misfire(StrEnum):
    """The handling of missed firings: RUN_ONCE for all of them together, or SKIP."""

    RUN_ONCE = "run_once"
    SKIP = "skip"


@dataclass(frozen=True)
class Policy:
    """The policies of a schedule.

    Attributes:
        misfire_grace_seconds: maximum delay up to which a firing is run regardless of *misfire*.
        timeout_seconds: time limit of a run; None for no limit.
        retries: number of retries of a failed run.
        retry_delay_seconds: delay before the first retry; it doubles with each further one.
    """

    overlap: Overlap = Overlap.SKIP
    misfire: Misfire = Misfire.RUN_ONCE
    misfire_grace_seconds: float = 60.0
    timeout_seconds: float | None = None
    retries: int = 0
    retry_delay_seconds: float = 5.0

    def retry_after(self, attempt: int) -> float | None:
        """Return the delay after the *attempt*-th run (from 1 on) has failed; None after the last one."""
        if attempt > self.retries:
            return None
        longest = max(MAX_RETRY_DELAY_SECONDS, self.retry_delay_seconds)
        return min(longest, self.retry_delay_seconds * 2.0 ** (attempt - 1))


@dataclass(frozen=True)
class Definition:
    """The schedule and its policies."""

    schedule: Schedule
    policy: Policy


def read_definition(config: Mapping[str, object]) -> Definition:
    """Parse the definition in an entity's `config`.

    Raises:
        UserError: `CronInvalid` or `PolicyInvalid`; the message names the field and the remedy.
    """
    return Definition(parse(config.get("schedule"), config.get("timezone")), _policy(config))


def _policy(config: Mapping[str, object]) -> Policy:
    default = Policy()
    retries = _number(config, "retries", 0, 0, _MAX_RETRIES)
    if retries != int(retries):
        raise PolicyInvalid("retries", retries, "a whole number")
    timeout = config.get("timeout")
    return Policy(
        overlap=_one_of(Overlap, config, "overlap", default.overlap),
        misfire=_one_of(Misfire, config, "misfire", default.misfire),
        misfire_grace_seconds=_number(config, "misfireGrace", default.misfire_grace_seconds, 0, 52 * _WEEK_SECONDS),
        timeout_seconds=None if timeout is None else _number(config, "timeout", 0, 0.1, _WEEK_SECONDS),
        retries=int(retries),
        retry_delay_seconds=_number(config, "retryDelay", default.retry_delay_seconds, 0, 86_400),
    )


def _one_of(kind: type[E], config: Mapping[str, object], field: str, default: E) -> E:
    value = config.get(field)
    if value is None:
        return default
    if not isinstance(value, str) or value not in set(kind):
        raise PolicyInvalid(field, value, f"one of {', '.join(kind)}")
    return kind(value)


def _number(config: Mapping[str, object], field: str, default: float, least: float, most: float) -> float:
    value = config.get(field)
    if value is None:
        return default
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        raise PolicyInvalid(field, value, f"a number from {least:g} to {most:g}")
    return float(value)  # type: ignore[arg-type]

"""Explain a cron expression in words."""

from collections.abc import Callable, Sequence
from itertools import pairwise, product

from services.bot_scheduler.cron import Every, Schedule
from services.bot_scheduler.cron_fields import Field

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_MOST_TIMES = 4


def explain(schedule: Schedule) -> str:
    """Return one sentence: ``At 09:00 from Monday to Friday (Europe/Berlin)``."""
    if isinstance(schedule, Every):
        return f"Every {_duration(schedule.seconds)}"
    second, minute, hour, *_ = schedule.fields
    parts = [_times(second, minute, hour), *_days(*schedule.fields[3:])]
    sentence = " ".join(part for part in parts if part)
    return f"{sentence[0].upper()}{sentence[1:]} ({schedule.zone.key})"


def _times(second: Field, minute: Field, hour: Field) -> str:
    if len(second.values) * len(minute.values) * len(hour.values) <= _MOST_TIMES:
        times = product(hour.values, minute.values, second.values)
        return "at " + _list([_clock(h, m, s) for h, m, s in times])
    parts = []
    if second.values != (0,):
        parts.append(_within(second, "second"))
    if not (minute.complete and parts):
        parts.append(_within(minute, "minute"))
    if not hour.complete or not parts[-1].startswith("every"):
        parts.append(_within(hour, "hour"))
    return " of ".join(parts)


def _within(field: Field, unit: str) -> str:
    """Return ``every 5 minutes``, ``minute 30``, ``hours 9 to 17``."""
    if field.complete:
        return f"every {unit}"
    values = field.values
    steps = {later - earlier for earlier, later in pairwise(values)}
    if len(values) > 2 and len(steps) == 1 and (step := steps.pop()) > 1:
        size = field.kind.highest + 1
        if values[0] == 0 and size - values[-1] <= step:
            return f"every {step} {unit}s"
        return f"every {step} {unit}s from {unit} {values[0]} to {values[-1]}"
    return f"{unit}{'s' if len(values) > 1 else ''} {_runs(values, str)}"


def _days(day: Field, month: Field, weekday: Field) -> list[str]:
    months = "" if month.complete else f"in {_runs(month.values, lambda number: _MONTHS[number - 1])}"
    on_days = f"on {_days_of_month(day)}"
    on_weekdays = f"on {_runs(weekday.values, lambda number: _WEEKDAYS[number])}"
    if day.unrestricted and weekday.unrestricted:
        return [months]
    if weekday.unrestricted:
        return [on_days, months]
    if day.unrestricted:
        return [on_weekdays, months]
    return [f"{on_days} and also {on_weekdays}", months]


def _days_of_month(day: Field) -> str:
    named = [f"day {_runs(day.values, str)}"] if day.values else []
    if day.last_day:
        named.append("the last day")
    return f"{_list(named)} of the month"


def _runs(values: Sequence[int], name: Callable[[int], str]) -> str:
    """Return neighbours as ``A to C``, the rest separately."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    words = []
    for run in runs:
        words += [f"{name(run[0])} to {name(run[-1])}"] if len(run) > 2 else [name(value) for value in run]
    return _list(words)


def _list(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def _clock(hour: int, minute: int, second: int) -> str:
    return f"{hour:02}:{minute:02}" + (f":{second:02}" if second else "")


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    amounts = ((hours, "hour"), (minutes, "minute"), (rest, "second"))
    words = [f"{amount} {unit}{'s' if amount > 1 else ''}" for amount, unit in amounts if amount]
    return _list(words).removeprefix("1 ") if len(words) == 1 else _list(words)

"""The report of a run: what each fault did to the bots, and what each check found, as JSON and as text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.checks import CHECKS, RECOVERY_SECONDS, Gap, gaps, recovery
from tests.chaos.timeline import FaultSpan, Timeline


@dataclass(frozen=True)
class FaultReport:
    """What one fault did.

    Attributes:
        down: bots that did not run for more than a second.
        longest_seconds: the longest of these times; *countable_seconds* with a healthy worker.
    """

    name: str
    began_seconds: float
    lasted_seconds: float
    down: int
    longest_seconds: float
    countable_seconds: float


@dataclass(frozen=True)
class Report:
    """The result of one run."""

    seed: int
    patch: str
    seconds: float
    load: float
    slowness: float
    lease_seconds: float
    limit_seconds: float
    copies: int
    events: int
    backtests: int
    firings: int
    faults: Sequence[FaultReport]
    violations: Mapping[str, Sequence[str]]

    @property
    def has_two_copies(self) -> bool:
        """Whether the first law is broken."""
        return bool(self.violations["no two live copies"])

    @property
    def good(self) -> bool:
        """Whether every check holds."""
        return not any(self.violations.values())

    def write(self, folder: Path) -> None:
        """Write both forms into *folder*."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(asdict(self), indent=2) + "\n")
        (folder / "report.txt").write_text(self.text())

    def text(self) -> str:
        """Return the report for people."""
        patch = f", patch {self.patch}" if self.patch else ""
        done = f"{self.copies} copies, {self.events} events, {self.firings} firings, {self.backtests} backtests"
        under = f"load {self.load:.1f}, {self.slowness:.1f} times too slow, leases of {self.lease_seconds:g} s"
        lines = [
            f"seed {self.seed}{patch}: {self.seconds:.0f} s, {done}, {under}",
            "",
            "   at s  lasted  bots down  longest  with a healthy worker  fault",
        ]
        lines += [
            f"{fault.began_seconds:7.1f} {fault.lasted_seconds:7.1f} {fault.down:10d} {fault.longest_seconds:8.1f} "
            f"{fault.countable_seconds:22.1f}  {fault.name}"
            for fault in self.faults
        ]
        lines.append("")
        for name, found in self.violations.items():
            lines.append(f"{'FAILED' if found else 'holds '}  {name}")
            lines += [f"        {violation}" for violation in found]
        return "\n".join(lines) + "\n"


def report_on(
    timeline: Timeline,
    *,
    seed: int,
    lease_seconds: float,
    patch: str = "",
    load: float = 0.0,
    limit_seconds: float = RECOVERY_SECONDS,
) -> Report:
    """Return the report on *timeline*, with *limit_seconds* for a bot to be back."""
    found = gaps(timeline)
    return Report(
        seed=seed,
        patch=patch,
        seconds=timeline.ended - timeline.began,
        load=load,
        slowness=timeline.slowness_between(timeline.began, timeline.ended),
        lease_seconds=lease_seconds,
        limit_seconds=limit_seconds,
        copies=len(timeline.copies),
        events=len(timeline.published),
        backtests=len(timeline.backtests),
        firings=len(timeline.firings),
        faults=[_fault(timeline, fault, found) for fault in timeline.faults],
        violations={
            **{name: check(timeline) for name, check in CHECKS.items()},
            "back in time": recovery(timeline, limit_seconds),
        },
    )


def _fault(timeline: Timeline, fault: FaultSpan, found: Sequence[Gap]) -> FaultReport:
    own = [gap for gap in found if fault.began <= gap.ended and gap.began <= fault.ended]
    return FaultReport(
        name=fault.name,
        began_seconds=fault.began - timeline.began,
        lasted_seconds=fault.ended - fault.began,
        down=len({gap.bot_id for gap in own}),
        longest_seconds=max((gap.seconds for gap in own), default=0.0),
        countable_seconds=max((gap.countable_seconds for gap in own), default=0.0),
    )

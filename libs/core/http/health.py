"""Whether this process can do its work, and what it waits for."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class DependencyState:
    """One dependency as last reported. *since* is the Unix time at which *ok* got its current value."""

    ok: bool
    detail: str
    since: float
    required: bool


class Readiness:
    """The states of a process's dependencies, by name; shown by ``/readyz``.

    A dependency is known from its first report or declaration on. Without any the process is not ready: it has
    not started its checks.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._states: dict[str, DependencyState] = {}

    def expect(self, name: str, detail: str = "not checked yet", *, required: bool = True) -> None:
        """Declare a dependency before its first report: not ok until then. A reported one is left unchanged."""
        self._states.setdefault(name, DependencyState(False, detail, self._clock(), required))

    def report(self, name: str, ok: bool, detail: str = "", *, required: bool | None = None) -> None:
        """Report the state of *name*. Cheap; may be repeated.

        Args:
            detail: for users: why it is not ok and the remedy, or further information. No secrets.
            required: False for a dependency without which the process still works (it is shown, but does not make
                the process not ready). None keeps the last value, initially True.
        """
        before = self._states.get(name)
        if required is None:
            required = before.required if before is not None else True
        since = before.since if before is not None and before.ok == ok else self._clock()
        self._states[name] = DependencyState(ok, detail, since, required)

    def forget(self, name: str) -> None:
        """Remove the dependency *name*."""
        self._states.pop(name, None)

    @property
    def ready(self) -> bool:
        """True when every required dependency is ok and at least one dependency is known."""
        return bool(self._states) and all(state.ok for state in self._states.values() if state.required)

    @property
    def states(self) -> dict[str, DependencyState]:
        """A copy of the states by name."""
        return dict(self._states)

    def snapshot(self) -> dict[str, Any]:
        """Return ``/readyz``: ``{"status", "dependencies": {name: {"ok", "detail", "since", "required"}}}``."""
        return {
            "status": "ready" if self.ready else "not ready",
            "dependencies": {
                name: {
                    "ok": state.ok,
                    "detail": state.detail,
                    "since": datetime.fromtimestamp(state.since, UTC).isoformat(timespec="milliseconds"),
                    "required": state.required,
                }
                for name, state in sorted(self._states.items())
            },
        }

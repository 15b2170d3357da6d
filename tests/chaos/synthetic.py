"""A timeline made for tests of the checks: one run in which every law holds."""

from tests.chaos.timeline import Completion, Copy, FaultSpan, Published, RunView, State, Timeline

WORKERS = frozenset({"w1", "w2"})


def copy(
    bot_id: str, container: str, begin: float, end: float, *, engine: str = "e1", restored: int | None = None
) -> Copy:
    """A copy that ticks ten times a second from *begin* to *end*, and counts from *restored* on."""
    ticks = tuple(begin + index / 10 for index in range(round((end - begin) * 10) + 1))
    counts = () if restored is None else tuple(range(restored + 1, restored + 1 + len(ticks)))
    return Copy(bot_id, container, engine, ticks, restored=restored, counts=counts)


GOOD = Timeline(
    began=0.0,
    ended=100.0,
    workers=WORKERS,
    copies=(copy("b1", "c1", 1, 50), copy("b1", "c2", 53, 100, engine="e2"), copy("s1", "c3", 10, 11)),
    faults=(FaultSpan("worker killed", 50, 60, frozenset({"w1"})),),
    watched={"b1": (1.0, 100.0)},
    published=(Published(0.5, "created", "b1", 1), Published(20, "created", "b2", 2), Published(30, "deleted", "b2")),
    backtests=("t1",),
    completions=(Completion(40, "t1", "ok", True), Completion(41, "t1", "ok", True)),
    notified=("t1",),
    firings=(RunView("r1", "s1", "c3", False, "12:00"), RunView("r2", "s1", "c4", False, "12:05")),
    settled=State(
        documents={"b1": 1},
        live={"b1": ("c2",)},
        open_runs=(RunView("r3", "b1", "c2", True),),
        counted={"bots 1": 1, "bots 2": 0},
        present={"bots 1": 1},
    ),
)

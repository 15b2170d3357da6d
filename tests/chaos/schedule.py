"""The names of all faults, and which happen when: each one once, then random pairs, in an order of the seed."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

HOW = ("cut", "black hole", "answers held back", "slow", "flapping")
LINKS = (
    "worker to MongoDB",
    "worker to its engine",
    "worker to masters",
    "an engine's workers to everything else",
    "all workers to NATS",
    "all workers to S3",
    "masters to MongoDB",
    "a member to the others",
)
CLOCK = "MongoDB's clock jumps"
WORKER_CLOCK = "a worker's clock is ahead"
CLOCKS = (CLOCK, WORKER_CLOCK)
"""They need libfaketime."""
FAMILIES: Mapping[str, Sequence[str]] = {
    "process killed": ("worker killed", "an engine's workers killed", "all masters killed"),
    "process restarted": (
        *("worker restarted", "an engine's workers restarted", "bots' workers restarted"),
        *("bots' workers restarted in turn", "masters restarted in turn", WORKER_CLOCK),
    ),
    "process frozen": ("worker frozen", "an engine's workers frozen", "leading master frozen", "all masters frozen"),
    "engine": (
        *("engine frozen", "containerd frozen", "engine and containerd frozen", "engine killed", "containerd killed"),
    ),
    "MongoDB": (
        *("primary killed", "primary frozen", "primary steps down", "secondary killed", "secondary frozen"),
        *("majority of MongoDB frozen", CLOCK),
    ),
    "NATS": ("NATS killed", "NATS frozen"),
    "S3": ("S3 killed", "S3 frozen"),
    "stream": ("stream re-created",),
    "pause": ("bots paused and workers frozen", "bots paused"),
    "disk": ("disk full", "engine's disk full", "primary's disk full", "NATS's disk full", "S3's disk full"),
    **{f"link: {how}": tuple(f"{link}: {how}" for link in LINKS) for how in HOW},
}
NAMES = tuple(chain.from_iterable(FAMILIES.values()))
SHORT = (
    "worker killed + NATS killed + a member to the others: flapping",
    "an engine's workers restarted + worker to its engine: slow",
    "an engine's workers frozen",
    "engine killed + worker to masters: answers held back",
    "primary killed + disk full + worker to MongoDB: cut",
    "an engine's workers to everything else: black hole",
    "stream re-created + leading master frozen + S3 frozen",
    "bots paused and workers frozen",
)
"""One of each family, some of them together where they do not meet."""


def together(names: Iterable[str]) -> list[list[str]]:
    """Return which faults happen together, from texts with ` + ` between their names."""
    return [one.split(" + ") for one in names]


def singles(chance: random.Random) -> Iterator[Sequence[str]]:
    """Return each fault alone, in random order."""
    return ([name] for name in chance.sample(NAMES, len(NAMES)))


def pairs(chance: random.Random) -> Iterator[Sequence[str]]:
    """Return random pairs without end.

    The stream is re-created only alone: an event that no worker can read before the stream is deleted is lost, and
    every fault of NATS or of workers keeps some from reading.
    """
    families = [family for family in FAMILIES if family != "stream"]
    while True:
        yield [chance.choice(FAMILIES[family]) for family in chance.sample(families, 2)]

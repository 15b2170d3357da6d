import asyncio
from pathlib import Path
from typing import cast

import pytest

from libs.core.aio.threads import Threads
from libs.docker_runner.containers.container import ContainerState, Label, ManagedContainer, from_labels
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.sandbox.egress import read
from libs.docker_runner.sandbox.narrowed_hosts import (
    NarrowedHosts,
    entries_of,
    hosts_text,
    read_hosts,
    resolved,
    write_hosts,
)
from libs.docker_runner.sandbox.network import BotNetwork, refused_in


def test_entries_are_the_addresses_of_the_hosts_at_their_ports() -> None:
    hosts = read("a.example:443,a.example:80,203.0.113.5:1,unknown.example:443")
    found = {"a.example": ["198.51.100.9", "2001:db8::9"], "other.example": ["198.51.100.7"]}

    assert entries_of("00a1b2c3ffff", hosts, found) == [
        "06:b1:00:a1:b2:c3 198.51.100.9 443",
        "06:b1:00:a1:b2:c3 198.51.100.9 80",
        "06:b1:00:a1:b2:c3 2001:db8::9 443",
        "06:b1:00:a1:b2:c3 2001:db8::9 80",
        "06:b1:00:a1:b2:c3 203.0.113.5 1",
    ]


def test_hosts_file_has_what_was_found_and_is_read_back(tmp_path: Path) -> None:
    found = {"b.example": ["198.51.100.9", "2001:db8::9"], "a.example": ["198.51.100.7"]}

    write_hosts(tmp_path / "hosts", found)

    assert read_hosts(tmp_path / "hosts") == found
    assert (tmp_path / "hosts").read_text().splitlines()[2:] == [
        "198.51.100.7 a.example",
        "198.51.100.9 b.example",
        "2001:db8::9 b.example",
    ]


def test_hosts_file_is_written_in_place_and_keeps_nothing_of_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    write_hosts(path, {"a-long-name.example": ["198.51.100.9"]})
    before = path.stat().st_ino

    write_hosts(path, {"a.example": ["198.51.100.7"]})

    assert path.stat().st_ino == before
    assert path.read_text() == hosts_text({"a.example": ["198.51.100.7"]})


def test_missing_or_malformed_hosts_file_has_no_addresses(tmp_path: Path) -> None:
    assert read_hosts(tmp_path / "none") == {}
    (tmp_path / "hosts").write_bytes(b"\xff\xfe\n")
    assert read_hosts(tmp_path / "hosts") == {}
    (tmp_path / "hosts").write_text("not-an-address a.example\n198.51.100.7 b.example\n")
    assert read_hosts(tmp_path / "hosts") == {"b.example": ["198.51.100.7"]}


def test_resolution_finds_addresses_ipv4_first() -> None:
    found = resolved("localhost")

    assert found[0] == "127.0.0.1"
    assert set(found) <= {"127.0.0.1", "::1"}


def test_refused_destinations_are_read_from_what_the_helper_printed() -> None:
    said = 'missing\nrefused: {"06:b1:00:00:00:01": ["198.51.100.9:80", "[2001:db8::9]:443"]}\n'

    assert refused_in(said) == {"06:b1:00:00:00:01": ["198.51.100.9:80", "[2001:db8::9]:443"]}


def test_refused_destinations_of_several_lines_are_all_read() -> None:
    assert refused_in('refused: {"a": ["x:1"]}\nrefused: {"b": ["y:2"]}') == {"a": ["x:1"], "b": ["y:2"]}


@pytest.mark.parametrize("said", ["", "missing", "refused: ", "refused: []", "refused: {", 'refused: {"a": 1}'])
def test_output_without_refused_destinations_has_none(said: str) -> None:
    assert refused_in(said) == {}


class Bots:
    """Stands in for an engine with narrowed bots, and for its rules."""

    def __init__(self, *names: str) -> None:
        self._containers = [
            from_labels(
                {Label.EGRESS: "a.example:443"},
                container_id=name,
                name=name,
                state=ContainerState.RUNNING,
            )
            for name in names
        ]
        self.opened: list[str] = []

    async def list(self, *_: object, **__: object) -> list[ManagedContainer]:
        return self._containers

    async def narrow(self, _: Path, entries: Path) -> str:
        self.opened = (await asyncio.to_thread(entries.read_text)).splitlines()
        return ""


async def test_hosts_file_that_cannot_be_written_costs_no_other_bot_its_addresses(tmp_path: Path) -> None:
    bots, threads = Bots("broken", "other"), Threads("files", 1)
    (tmp_path / "broken").mkdir()
    (tmp_path / "other").write_text("")
    narrowed = NarrowedHosts(
        cast(Engine, bots),
        cast(BotNetwork, bots),
        tmp_path / "entries",
        lambda container: tmp_path / container.name,
        threads=threads,
        resolve=lambda _: ["198.51.100.7"],
    )
    try:
        await narrowed.renew(tmp_path)
    finally:
        narrowed.close()
        threads.close()

    assert read_hosts(tmp_path / "other") == {"a.example": ["198.51.100.7"]}
    assert [line.split()[1:] for line in bots.opened] == [["198.51.100.7", "443"]] * 2
    assert list((tmp_path / "entries").iterdir()) == []

"""Keep the bots with an allow-list of hosts (``config.egress``) on exactly these hosts, whose addresses may change.

The worker resolves the names, the kernel's rules let through what it found, and the bot finds the same in its
``/etc/hosts``, which the worker writes. The bot itself has no DNS: it cannot carry data in queries, and no answer of a
name server that it controls opens anything.

The labels of containers and their files are the only state: every worker of the engine renews all of them, also those
that another worker started. Nothing is opened by a failure. An address that a name no longer has is closed
:data:`ENTRY_SECONDS` after it was last found; connections to it stay open.
"""

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from libs.core.aio.threads import Threads
from libs.core.observability.log import get_logger
from libs.docker_runner.containers.container import Label, ManagedContainer
from libs.docker_runner.engine.client import Engine
from libs.docker_runner.errors import SandboxUnavailable
from libs.docker_runner.sandbox.egress import AllowedHost, read
from libs.docker_runner.sandbox.network import BotNetwork, card_address, refused_in

log = get_logger(__name__)

Addresses = Mapping[str, Sequence[str]]
"""The addresses of each name."""

ADDRESSES_OF_A_NAME = 16
_RENEW_SECONDS = 30.0
_RESOLVE_SECONDS = 5.0
_RESOLVERS = 8
_FIRST_LINES = "127.0.0.1 localhost bot\n::1 localhost ip6-localhost ip6-loopback\n"


class NarrowedHosts:
    """The allow-lists of all bots on one engine.

    Args:
        folder: for files that the engine's helpers read.
        threads: for files.
        hosts_file: returns the path of a container's hosts file.
        resolve: returns the addresses of a name; raises OSError.
    """

    def __init__(
        self,
        engine: Engine,
        network: BotNetwork,
        folder: Path,
        hosts_file: Callable[[ManagedContainer], Path],
        *,
        threads: Threads,
        resolve: Callable[[str], list[str]],
        renew_seconds: float = _RENEW_SECONDS,
    ) -> None:
        self._engine = engine
        self._network = network
        self._folder = folder
        self._hosts_file = hosts_file
        self._resolve = resolve
        self._renew_seconds = renew_seconds
        self._renewed_at = float("-inf")
        self._threads = threads
        # Its own: a name server that does not answer must not delay the starts of other bots.
        self._resolvers = Threads("resolve-hosts", _RESOLVERS)
        self._unresolved: set[str] = set()
        self._refused: Mapping[str, Sequence[str]] = {}

    def refused(self, token: str) -> Sequence[str]:
        """Return where the container of the start *token* was refused lately, as of the last renewal."""
        return self._refused.get(card_address(token, narrowed=True), ())

    def close(self) -> None:
        """End the threads. May be repeated."""
        self._resolvers.close()

    async def admit(self, egress: str, token: str, hosts_file: Path, entrypoints: Path) -> None:
        """Open the hosts in *egress* for the container of the start *token*, before it is created.

        Raises:
            SandboxUnavailable: the rules cannot be installed on this engine.
            EngineUnavailable: unknown.
            OSError: the file cannot be written.
        """
        hosts = read(egress)
        found = await self._addresses(hosts)
        await self._open(entries_of(token, hosts, found), entrypoints)
        await self._threads.run(write_hosts, hosts_file, found)

    async def renew(self, entrypoints: Path) -> None:
        """Find the addresses of all hosts again, at times, and open them to their bots. Needs no earlier call.

        Raises:
            SandboxUnavailable: the rules cannot be installed; running bots lose their hosts later.
            EngineUnavailable: unknown.
        """
        if time.monotonic() - self._renewed_at < self._renew_seconds:
            return
        self._renewed_at = time.monotonic()
        containers = await self._engine.list({Label.MANAGED: "true", Label.EGRESS: None}, ended=False)
        if not containers:
            return
        lists = {container.container_id: read(container.egress or "") for container in containers}
        found = await self._addresses({host for hosts in lists.values() for host in hosts})
        opened: list[str] = []
        files: list[tuple[Path, dict[str, list[str]]]] = []
        for container in containers:
            hosts, path = lists[container.container_id], self._hosts_file(container)
            own = {host.host for host in hosts}
            before = await self._threads.run(read_hosts, path)
            # A name that is not found now keeps its addresses.
            addresses = {name: found.get(name) or before.get(name) or [] for name in own}
            opened += entries_of(container.token, hosts, addresses)
            if addresses != before:
                files.append((path, addresses))
        await self._open(opened, entrypoints)
        for path, addresses in files:
            await self._rewrite(path, addresses)

    async def _rewrite(self, path: Path, addresses: Addresses) -> None:
        """Update a bot's file. One of another user, or of a bot that ended, is left to its worker."""
        try:
            if await self._threads.run(path.exists):
                await self._threads.run(write_hosts, path, addresses)
        except OSError as error:
            log.warning("the addresses of a bot's hosts were not written", path=str(path), reason=error.strerror)

    async def _open(self, entries: Sequence[str], entrypoints: Path) -> None:
        path = self._folder / f"{secrets.token_hex(8)}.entries"
        try:
            await self._threads.run(_write_entries, path, entries)
            self._refused = refused_in(await self._network.narrow(entrypoints, path))
        except OSError as error:
            raise SandboxUnavailable(f"the hosts of bots cannot be written to {path}: {error.strerror}") from error
        finally:
            await asyncio.shield(self._threads.run(_removed, path))

    async def _addresses(self, hosts: Iterable[AllowedHost]) -> dict[str, list[str]]:
        """Return the addresses of the names among *hosts* that are found now."""
        names = sorted({host.host for host in hosts if not host.is_address})
        answers = await asyncio.gather(*map(self._addresses_of, names))
        found = {name: answer for name, answer in zip(names, answers, strict=True) if answer}
        missing = set(names) - found.keys()
        for name in sorted(missing - self._unresolved):
            log.warning("a host in a bot's egress list has no address now", host=name)
        self._unresolved = (self._unresolved - set(names)) | missing
        return found

    async def _addresses_of(self, name: str) -> list[str]:
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                return (await self._resolvers.run(self._resolve, name))[:ADDRESSES_OF_A_NAME]
        except (OSError, UnicodeError, TimeoutError):
            return []


def resolved(name: str) -> list[str]:
    """Return the addresses of *name*, IPv4 first. Blocks; raises OSError."""
    # With a dot at its end: no search domain of the host is tried.
    found = socket.getaddrinfo(f"{name}." if "." in name else name, None, type=socket.SOCK_STREAM)
    addresses = {str(answer[4][0]).partition("%")[0] for answer in found}
    return sorted(addresses, key=lambda address: (":" in address, address))


def entries_of(token: str, hosts: Iterable[AllowedHost], found: Addresses) -> list[str]:
    """Return a line for each address and port that the container of the start *token* may reach. Pure."""
    card = card_address(token, narrowed=True)
    return sorted(
        {
            f"{card} {address} {host.port}"
            for host in hosts
            for address in ([host.host] if host.is_address else found.get(host.host, ()))
        }
    )


def hosts_text(found: Addresses) -> str:
    """Return the content of ``/etc/hosts``. Pure."""
    return _FIRST_LINES + "".join(f"{address} {name}\n" for name in sorted(found) for address in found[name])


def read_hosts(path: Path) -> dict[str, list[str]]:
    """Return the names and addresses in a file of :func:`write_hosts`; none when there is no file."""
    found: dict[str, list[str]] = {}
    try:
        lines = path.read_text().removeprefix(_FIRST_LINES).splitlines()
    except (OSError, ValueError):
        return found
    for line in lines:
        address, _, name = line.partition(" ")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            continue
        found.setdefault(name, []).append(address)
    return found


def write_hosts(path: Path, found: Addresses) -> None:
    """Write the file in place: the container has it mounted, and would not see another one of that name."""
    content = hosts_text(found).encode()
    with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
        file.write(content)
        file.truncate(len(content))
    path.chmod(0o644)


def _write_entries(path: Path, entries: Iterable[str]) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text("".join(f"{entry}\n" for entry in entries))
    # The helper is root without any privilege over files.
    path.chmod(0o644)


def _removed(path: Path) -> None:
    # On a disk that is read-only now, another one is left behind each time; they are small, and the folder temporary.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)

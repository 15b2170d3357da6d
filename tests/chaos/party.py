"""A process with links of its own: each server that it uses is behind a proxy that only this process uses.

All parties are on one machine. A party has an address of the loopback, on which its proxies listen with the ports of
the servers behind them, and an `/etc/hosts` of its own, in which the names of servers are that address. So a replica
set, whose members are known by one name to all clients, has a proxy for each pair of client and member.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.support.faults.tcp_proxy import SocketProxy, TcpProxy

_OWN_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'
_LOCAL = "127.0.0.1"


class Party:
    """One process, its address, and its links by the names of the servers."""

    def __init__(self, name: str, number: int, folder: Path) -> None:
        self.name = name
        self.address = f"127.77.{number}.1"
        self.links: dict[str, TcpProxy] = {}
        self._folder = folder
        self._names: dict[str, str] = {"localhost": _LOCAL, name: _LOCAL}

    async def link(self, servers: Mapping[str, int]) -> None:
        """Put a proxy before each of these servers, which have these ports."""
        for name, port in servers.items():
            if name != self.name:
                self.links[name] = TcpProxy(port, host=self.address, port=port)
                await self.links[name].open()
                self._names[name] = self.address

    async def link_engine(self, url: str) -> str:
        """Put a proxy before the engine, and return its address for DOCKER_HOST."""
        path = str(self._folder / f"{self.name}.sock")
        self.links["engine"] = SocketProxy(url.removeprefix("unix://"), path)
        await self.links["engine"].open()
        return f"unix://{path}"

    def command(self, command: Sequence[str | Path]) -> list[str | Path]:
        """Return *command* wrapped so that it sees the names of this party; the process id stays."""
        hosts = self._folder / f"{self.name}.hosts"
        hosts.write_text("".join(f"{address} {name}\n" for name, address in self._names.items()))
        return ["unshare", "--mount", "sh", "-c", _OWN_HOSTS, hosts, *command]

    def to(self, servers: Iterable[str]) -> list[TcpProxy]:
        """Return the links to these servers."""
        return [self.links[name] for name in servers if name in self.links]

    async def close(self) -> None:
        """Close all proxies."""
        for link in self.links.values():
            await link.close()

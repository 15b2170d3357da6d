"""The bots' network: public addresses only; no other container, no private network, not the host.

There are two ways to achieve that, tried in this order:

- On the engine's default bridge, where every bot's interface has a MAC address with a fixed prefix, and nftables drops
  what passes between such an interface and any other port. A bot cannot change its MAC address.
- On a separate bridge with the engine's inter-container traffic disabled. This needs less of the kernel, and makes each
  start a third slower, since the engine runs a name server in every container of such a network.
"""

import asyncio
import dataclasses
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.core.config.destinations import Destination
from libs.core.hostile_json import Bounds, Refused, parse
from libs.core.observability.log import get_logger
from libs.docker_runner.containers.container import Label
from libs.docker_runner.engine.client import Engine, NameTaken, NoSuchImage
from libs.docker_runner.engine.helper_container import ended_helper, locked_up
from libs.docker_runner.engine.http import EngineRefused
from libs.docker_runner.errors import SandboxUnavailable
from libs.docker_runner.executable import NetworkLimits

log = get_logger(__name__)

DEFAULT_BRIDGE = "bridge"
# One for all services and deployments of an engine, since engines have few subnets. The bridge's name is fixed too:
# two networks cannot share one, so that of two workers who create it concurrently only one succeeds.
OWN_NETWORK = "the0-bots"
OWN_BRIDGE = "the0-bots"
# Locally administered, and different from the engines' own choice (02:42).
ADDRESS_PREFIX = "06b0"
# Of bots that reach listed hosts only. Rules of their own, since workers of older versions replace those of the others.
NARROWED_PREFIX = "06b1"
DEFAULT_LIMITS = NetworkLimits()
_RENEW_SECONDS = 60.0
# Of a helper; those with refused destinations are at most 20.
_LINES = 50
_REFUSED = "refused:"
_BOUNDS = Bounds(bytes=65_536, depth=3, values=2000)
_DISAGREEMENT = (
    "another worker of this engine has other settings or another version; set EGRESS_ALLOW, BOT_HTTP_PROXY, "
    "BOT_CONNECTIONS, BOT_NEW_CONNECTIONS_PER_SECOND, BOT_PACKETS_PER_SECOND, BOT_SENT_MBIT_PER_SECOND and "
    "BOT_RECEIVED_MBIT_PER_SECOND alike"
)
_MORE_NEIGHBOURS = (
    "set net.ipv4.neigh.default.gc_thresh2=262144 and gc_thresh3=524288 on the host, and the same of net.ipv6"
)


@dataclass(frozen=True)
class Attachment:
    """The network of a container's interface: the engine's id or name of a network.

    *walled* interfaces must have an address with the prefix, made by :func:`card_address`. *named* ones may have it: it
    identifies in the rules whose packets they refused, and what a bot with an allow-list of hosts reaches.
    """

    network: str
    walled: bool
    named: bool = True


def card_address(token: str, *, narrowed: bool = False) -> str:
    """Return the MAC address of the start *token* (hexadecimal digits)."""
    digits = (NARROWED_PREFIX if narrowed else ADDRESS_PREFIX) + token[:8]
    return ":".join(digits[place : place + 2] for place in range(0, 12, 2))


def refused_in(said: str) -> dict[str, list[str]]:
    """Return where each interface was refused, by its address, from what the helper printed. Pure."""
    found: dict[str, list[str]] = {}
    for line in said.splitlines():
        if line.startswith(_REFUSED):
            parsed = parse(line.removeprefix(_REFUSED).encode(), _BOUNDS)
            if not isinstance(parsed, Refused) and isinstance(parsed.value, dict):
                lists = {card: targets for card, targets in parsed.value.items() if isinstance(targets, list)}
                found |= {card: [str(target) for target in targets] for card, targets in lists.items()}
    return found


class BotNetwork:
    """The network on one engine.

    Args:
        image: an image with ``python3``, for the helpers.
        guard: whether bots require that private networks and the host are blocked. Without it, bots are on the
            separate bridge, where the engine isolates them from each other.
        allowed: private destinations that are reachable nevertheless.
        limits: of one bot. The workers of an engine must agree on both.
        default_bridge: whether the first way is tried.
        renew_seconds: how often the rules are checked and restored.
    """

    def __init__(
        self,
        engine: Engine,
        image: str,
        *,
        guard: bool = True,
        allowed: Sequence[Destination] = (),
        limits: NetworkLimits = DEFAULT_LIMITS,
        default_bridge: bool = True,
        renew_seconds: float = _RENEW_SECONDS,
    ) -> None:
        self._engine = engine
        self._image = image
        self._guard = guard
        self._allowed = tuple(map(str, allowed))
        self._limits = limits
        self._default_bridge = guard and default_bridge
        self._renew_seconds = renew_seconds
        self._attachment: Attachment | None = None
        self._put_up_at = 0.0
        self._no_walls_said = False
        self._unlimited = False
        self._crowded = False
        self._lock = asyncio.Lock()
        self._disagrees = False
        self._refused: Mapping[str, Sequence[str]] = {}

    def refused(self, token: str) -> Sequence[str]:
        """Return where the container of the start *token* was refused lately, as of the last check of the rules.

        Empty on an engine that gives interfaces other addresses than requested, or whose rules are those of routing.
        """
        return self._refused.get(card_address(token), ())

    def forget(self) -> None:
        """Check it again at the next start, since the engine restarted or the network is gone."""
        self._attachment = None

    async def ensure(self, entrypoints: Path) -> Attachment:
        """Return the attachment of a bot, with the rules in place. May be repeated; free when already known.

        Raises:
            SandboxUnavailable: the rules cannot be installed, so no bot may run.
            EngineUnavailable: unknown.
        """
        async with self._lock:
            if self._attachment is None:
                self._attachment = await self._put_up(entrypoints)
                log.info("the bots' network is ready", network=self._attachment.network)
            return self._attachment

    async def renew(self, entrypoints: Path) -> None:
        """As :meth:`ensure`; also check periodically that the rules are still in place, for running bots.

        Raises:
            SandboxUnavailable: they cannot be installed, so no bot may run.
            EngineUnavailable: unknown.
        """
        attachment = await self.ensure(entrypoints)
        if not self._guard or time.monotonic() - self._put_up_at < self._renew_seconds:
            return
        # Without the lock: starts need not wait for it.
        self._put_up_at = time.monotonic()
        try:
            said = await self._wall(entrypoints, attachment.walled)
        except SandboxUnavailable:
            self.forget()
            raise
        # Since the last time, when this worker's rules were installed.
        if (disagrees := "differs" in said) and not self._disagrees:
            log.warning("the rules of the bots' network were replaced by another worker's", reason=_DISAGREEMENT)
        self._disagrees = disagrees
        if "missing" in said:
            log.warning("the rules of the bots' network were missing and are restored", network=attachment.network)

    async def narrow(self, entrypoints: Path, entries: Path) -> str:
        """Install the rules of bots that reach listed hosts only, and open *entries* to them. May be repeated.

        Returns:
            What the helper printed, with what was refused lately.

        Args:
            entries: a file with a line for each: the interface's address, the target's address, and a port.

        Raises:
            SandboxUnavailable: this engine's bots cannot be distinguished, or the rules cannot be installed.
            EngineUnavailable: unknown.
        """
        attachment = await self.ensure(entrypoints)
        if not attachment.named:
            raise SandboxUnavailable(
                "config.egress cannot be enforced on this engine, which gives interfaces other addresses than requested"
            )
        mode = "narrowed" if attachment.walled else "narrowed-on-bridge"
        body = _guard(entrypoints, mode, NARROWED_PREFIX, self._limits_text, *self._allowed)
        mount = {"Type": "bind", "Source": str(entries), "Target": "/entries", "ReadOnly": True}
        body["HostConfig"]["Mounts"].append(mount)
        return await self._helper(body)

    @property
    def _limits_text(self) -> str:
        return ",".join(map(str, dataclasses.astuple(self._limits)))

    async def _put_up(self, entrypoints: Path) -> Attachment:
        self._put_up_at = time.monotonic()
        if self._default_bridge:
            try:
                # Whether the engine applies the requested addresses is checked with one container.
                ended = await asyncio.gather(
                    self._wall(entrypoints, walled=True),
                    self._helper(_card_probe(DEFAULT_BRIDGE)),
                    # Both have ended then, also when they are cancelled, and their containers are removed.
                    return_exceptions=True,
                )
                for one in ended:
                    if isinstance(one, BaseException):
                        raise one
            except SandboxUnavailable as error:
                self._say_no_walls(error)
            else:
                self._no_walls_said = False
                return Attachment(DEFAULT_BRIDGE, walled=True)
        network_id = await self._own_network()
        if not self._guard:
            return Attachment(network_id, walled=False, named=False)
        await self._wall(entrypoints, walled=False)
        if await self._gives_addresses():
            return Attachment(OWN_NETWORK, walled=False)
        return Attachment(network_id, walled=False, named=False)

    async def _gives_addresses(self) -> bool:
        """Whether interfaces of the separate network get the requested addresses.

        Docker 20.10 gives them only to containers that request the network by its name.
        """
        try:
            await self._helper(_card_probe(OWN_NETWORK))
        except SandboxUnavailable as error:
            log.info("refused destinations of bots cannot be shown", reason=str(error))
            return False
        return True

    async def _wall(self, entrypoints: Path, walled: bool) -> str:
        """Install the rules and return what the helper printed."""
        subject = ("by-address", ADDRESS_PREFIX) if walled else ("by-bridge", OWN_BRIDGE)
        said = await self._helper(_guard(entrypoints, *subject, self._limits_text, *self._allowed))
        if (unlimited := "unlimited" in said) and not self._unlimited:
            log.warning("this kernel cannot limit the connections and the bandwidth of a bot", reason=said)
        self._unlimited = unlimited
        if (crowded := "neighbours:" in said) and not self._crowded:
            log.warning("one bot can fill this host's table of neighbours", reason=said, remedy=_MORE_NEIGHBOURS)
        self._crowded = crowded
        self._refused = refused_in(said)
        return said

    def _say_no_walls(self, error: SandboxUnavailable) -> None:
        """Log the fallback once until it is over: if the separate network fails too, both are tried repeatedly."""
        say = log.debug if self._no_walls_said else log.info
        self._no_walls_said = True
        say("the default bridge cannot be secured; bots use a separate network", reason=str(error))

    async def _own_network(self) -> str:
        found = await self._engine.network_id(OWN_NETWORK)
        if found is not None:
            return found
        body = {
            "Name": OWN_NETWORK,
            "Driver": "bridge",
            "CheckDuplicate": True,
            "Options": {
                "com.docker.network.bridge.name": OWN_BRIDGE,
                "com.docker.network.bridge.enable_icc": "false",
            },
            "Labels": {Label.MANAGED: "true"},
        }
        try:
            return await self._engine.create_network(body)
        except EngineRefused as error:
            found = await self._engine.network_id(OWN_NETWORK)
            if found is None:
                raise SandboxUnavailable(f"the bots' network cannot be created: {error.message}") from error
            return found

    async def _helper(self, body: dict[str, Any]) -> str:
        """Run a short-lived container and return its output; SandboxUnavailable unless it succeeds."""
        try:
            async with ended_helper(self._engine, self._image, body) as helper:
                return await self._output(helper)
        except EngineRefused as error:
            # Without the helper's name, so that the same failure always has the same text.
            raise SandboxUnavailable(f"the bots' network cannot be secured: {error.message}") from error
        except (NoSuchImage, NameTaken) as error:
            raise SandboxUnavailable(f"the bots' network cannot be secured: {error!r}") from error

    async def _output(self, helper: str) -> str:
        """Return its output; SandboxUnavailable if it failed."""
        ended = await self._engine.inspect(helper)
        lines = [line.data.decode(errors="replace") async for line in self._engine.logs(helper, tail=_LINES)]
        said = "".join(lines).strip()
        if ended is None or ended.container.exit_code != 0:
            raise SandboxUnavailable(f"the bots' network cannot be secured: {said}")
        return said


def _guard(entrypoints: Path, *arguments: str) -> dict[str, Any]:
    mount = {"Type": "bind", "Source": str(entrypoints / "guard"), "Target": "/guard", "ReadOnly": True}
    return {
        "Entrypoint": ["python3", "-I", "-S", "-B", "/guard/network_guard.py", *arguments],
        "User": "0:0",
        "HostConfig": {
            **locked_up(),
            "NetworkMode": "host",
            # A helper in a user namespace cannot configure the host's network.
            "UsernsMode": "host",
            "CapAdd": ["NET_ADMIN"],
            "Mounts": [mount],
        },
    }


def _card_probe(network: str) -> dict[str, Any]:
    """Succeed if its interface has the requested address."""
    address = card_address(secrets.token_hex(6))
    code = f"import sys; sys.exit(open('/sys/class/net/eth0/address').read().strip() != {address!r})"
    return {
        "Entrypoint": ["python3", "-I", "-S", "-B", "-c", code],
        "User": "10001:10001",
        **card_fields(address, network),
        "HostConfig": {**locked_up(), "NetworkMode": network},
    }


def card_fields(address: str, network: str) -> dict[str, Any]:
    """Return the create request's fields for *address*: engines up to API 1.43 read the first, later ones both."""
    return {
        "MacAddress": address,
        "NetworkingConfig": {"EndpointsConfig": {network: {"MacAddress": address}}},
    }

"""Where a webhook of a bot's owner may lead: to public addresses only, as its bot may. Pure except for the resolution.

A name is resolved once, every address is checked, and the connection goes to a checked address: a second resolution
could have another result.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from libs.core.config.destinations import Destination
from libs.core.errors import Permanent, Retryable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# As for bots; a test compares them with the rules of the bots' network.
DENIED_IPV4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
DENIED_IPV6 = ("::/96", "::ffff:0:0/96", "64:ff9b:1::/48", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8")
MAIL_PORTS = (25, 465, 587)
_DENIED = [ipaddress.ip_network(text) for text in (*DENIED_IPV4, *DENIED_IPV6)]
# Translators, which lead to the IPv4 address in their last 32 bits, or in the bits behind the prefix.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_URL = re.compile(r"https?://[\x21-\x7e]+")
_URL_CHARACTERS = 2000
_HOST = re.compile(r"[A-Za-z0-9_.:%-]{1,253}")


class DestinationRefused(Permanent):
    """The webhook must not be called. Not retryable. The message has no part of the URL but its host."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"the webhook at {host or 'an unknown host'} is not called: {reason}")
        self.reason = reason


class NameUnresolved(Retryable):
    """The name of the host has no address now."""


@dataclass(frozen=True)
class Url:
    """A valid URL of a webhook. *target* is its path with the query, *authority* the value of the header Host."""

    text: str
    scheme: str
    host: str
    port: int
    authority: str
    target: str

    @classmethod
    def of(cls, value: object) -> Self:
        """Read a URL.

        Raises:
            DestinationRefused: it is no URL of a webhook.
        """
        if not isinstance(value, str) or len(value) > _URL_CHARACTERS or not _URL.fullmatch(value):
            raise DestinationRefused("", "it must be an http:// or https:// URL without spaces")
        try:
            parts = urlsplit(value)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise DestinationRefused("", f"it is no URL: {error}") from None
        if not _HOST.fullmatch(host) or "%" in host:
            raise DestinationRefused("", "it has no host name or address")
        if parts.username is not None or parts.password is not None:
            raise DestinationRefused(host, "it must not have a user or a password")
        shown = f"[{host}]" if ":" in host else host
        default = 443 if parts.scheme == "https" else 80
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(
            value,
            parts.scheme,
            host,
            port or default,
            shown if not port or port == default else f"{shown}:{port}",
            target,
        )

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Rules:
    """The rules for webhooks of bots' owners.

    Attributes:
        allowed: destinations that are allowed although they are denied (EGRESS_ALLOW).
        checks_self: whether connections to this machine's own addresses are refused.
    """

    allowed: Sequence[Destination] = ()
    checks_self: bool = True

    def allows(self, address: Address, port: int) -> bool:
        """Whether the operator allows *address* at *port* explicitly."""
        return any(address in one.network and one.port in (None, port) for one in self.allowed)

    def refusal(self, address: Address, port: int) -> str:
        """Return why *address* must not be reached at *port*; "" when it may."""
        if self.allows(address, port):
            return ""
        if port in MAIL_PORTS:
            return f"port {port} is for mail"
        for one in (address, *_translated(address)):
            if any(one in network for network in _DENIED):
                return f"its address {address} is private, local or reserved; the operator may allow it by EGRESS_ALLOW"
        return ""

    async def addresses(self, url: Url) -> list[str]:
        """Return the addresses of *url*, all of which are allowed.

        Raises:
            DestinationRefused: one of them is not.
            NameUnresolved: there is none now.
        """
        try:
            found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameUnresolved(f"the host {url.host} has no address: {error}") from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for text in addresses:
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                raise DestinationRefused(url.host, "its address has a scope") from None
            if refusal := self.refusal(address, url.port):
                raise DestinationRefused(url.host, refusal)
        return addresses


class NoRules(Rules):
    """For the operator's own webhook, which may be in a private network."""

    def __init__(self) -> None:
        super().__init__(checks_self=False)

    def refusal(self, address: Address, port: int) -> str:
        """Refuse nothing."""
        return ""


def _translated(address: Address) -> list[Address]:
    """Return the IPv4 addresses to which a translator or a tunnel at *address* leads."""
    if not isinstance(address, ipaddress.IPv6Address):
        return []
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour]
    if address in _NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.teredo is not None:
        found += address.teredo
    return [one for one in found if one is not None]

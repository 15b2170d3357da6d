"""Send one request to a webhook: to a checked address, without following redirects, with limits of time and size."""

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Mapping

from libs.core.errors import Retryable
from libs.notifications.destination import DestinationRefused, Rules, Url

_STATUS_BYTES = 4096
_CLOSE_SECONDS = 1.0


class NotDelivered(Retryable):
    """The webhook did not accept the request. The message has no part of the URL but its host."""

    def __init__(self, url: Url, reason: str) -> None:
        super().__init__(f"the webhook at {url.authority} did not accept it: {reason}")


async def post(
    url: Url, rules: Rules, headers: Mapping[str, str], body: bytes, *, tls: ssl.SSLContext, limit_seconds: float
) -> None:
    """Send *body* to *url*, and return when the answer is a success (2xx). Only the status line is read.

    Raises:
        DestinationRefused: *rules* forbid the destination.
        NotDelivered, NameUnresolved: repeat it later.
    """
    try:
        async with asyncio.timeout(limit_seconds):
            addresses = await rules.addresses(url)
            # A public address may be one of this machine, where other services listen.
            is_own_refused = rules.checks_self and not rules.allows(ipaddress.ip_address(addresses[0]), url.port)
            status = await _status(url, addresses[0], _request(url, headers, body), tls, is_own_refused)
    except TimeoutError:
        raise NotDelivered(url, f"no answer within {limit_seconds:g} s") from None
    except (OSError, EOFError, ValueError) as error:
        raise NotDelivered(url, str(error) or type(error).__name__) from error
    if not 200 <= status < 300:
        raise NotDelivered(url, f"status {status}")


async def _status(url: Url, address: str, request: bytes, tls: ssl.SSLContext, is_own_refused: bool) -> int:
    is_secure = url.scheme == "https"
    reader, writer = await asyncio.open_connection(
        address,
        url.port,
        ssl=tls if is_secure else None,
        server_hostname=url.host if is_secure else None,
        limit=_STATUS_BYTES,
    )
    try:
        if is_own_refused and writer.get_extra_info("peername")[0] == writer.get_extra_info("sockname")[0]:
            raise DestinationRefused(url.host, "its address is this machine's own")
        writer.write(request)
        await writer.drain()
        line = await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await writer.wait_closed()
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or len(parts[1]) != 3 or not parts[1].isdigit():
        raise ValueError("the answer is no HTTP response")
    return int(parts[1])


def _request(url: Url, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"POST {url.target} HTTP/1.1", f"Host: {url.authority}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body

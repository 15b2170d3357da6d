"""Check whether a Docker engine answers, and where."""

import http.client
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_SOCKET = Path("/var/run/docker.sock")
_PROBE_SECONDS = 5.0


def engine_url() -> str:
    """Return the engine's address: DOCKER_HOST, else the default socket."""
    return os.environ.get("DOCKER_HOST") or f"unix://{DEFAULT_SOCKET}"


def why_not(url: str) -> str | None:
    """Return None when a Docker engine answers at *url*, else the reason."""
    parts = urlsplit(url)
    try:
        if parts.scheme == "unix":
            return _ping_unix(parts.path)
        if parts.scheme in ("tcp", "http") and not os.environ.get("DOCKER_TLS_VERIFY"):
            return _ping(http.client.HTTPConnection(parts.hostname or "localhost", parts.port, timeout=_PROBE_SECONDS))
        # TLS and SSH need the client's own configuration, so only the client can check.
        return _ping_with_client(url)
    except (OSError, http.client.HTTPException) as error:
        return str(error)


def _ping_unix(path: str) -> str | None:
    connection = http.client.HTTPConnection("docker", timeout=_PROBE_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(_PROBE_SECONDS)
    try:
        connection.sock.connect(path)
    except OSError:
        connection.close()
        raise
    return _ping(connection)


def _ping(connection: http.client.HTTPConnection) -> str | None:
    try:
        connection.request("GET", "/_ping")
        status = connection.getresponse().status
        return None if status == http.client.OK else f"it answered HTTP {status}"
    finally:
        connection.close()


def _ping_with_client(url: str) -> str | None:
    import docker  # slow to import, and needed for these two transports only
    from docker.errors import DockerException

    try:
        client = docker.from_env(environment={**os.environ, "DOCKER_HOST": url}, timeout=int(_PROBE_SECONDS))
    except DockerException as error:
        return str(error)
    try:
        client.ping()
    except DockerException as error:
        return str(error)
    finally:
        client.close()
    return None

"""Query a local process over its HTTP port."""

import asyncio
import http.client
import json
from typing import Any

_SECONDS = 2.0


async def get_json(port: int, path: str) -> tuple[int, Any] | None:
    """Return status and JSON body of `http://127.0.0.1:PORT/PATH`; None without a JSON answer in time."""
    return await asyncio.to_thread(_get, port, path)


def _get(port: int, path: str) -> tuple[int, Any] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def hindrances(readiness: Any) -> str:
    """Return in one line what is missing according to a `/readyz` body."""
    dependencies = readiness.get("dependencies", {}) if isinstance(readiness, dict) else {}
    return "; ".join(
        f"{name}: {state.get('detail') or 'not ready'}" for name, state in dependencies.items() if not state.get("ok")
    )

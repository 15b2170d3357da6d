"""A receiver of the runtime's notifications: verifies each signature, and prints what is new.

    NOTIFY_SECRET=... python receiver.py 8090

It needs nothing but Python. Put it behind TLS, or use it as a model for another language.
"""

import hashlib
import hmac
import json
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST_BYTES = 256 * 1024
TOLERANCE_SECONDS = 300
KNOWN_IDS = 10_000


class Refused(Exception):
    """The request is not from the runtime, or too old."""


def verified(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> dict[str, object]:
    """Return the notification in *body*.

    Raises:
        Refused: its signature is wrong, or its time is not now: somebody may have recorded it and sends it again.
    """
    timestamp = headers.get("The0-Timestamp", "")
    expected = "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    # In constant time: the time of a comparison must not show how much of a guess was right.
    if not hmac.compare_digest(expected.encode(), headers.get("The0-Signature", "").encode()):
        raise Refused("the signature is wrong")
    if not timestamp.isdigit() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise Refused("the timestamp is not now")
    found = json.loads(body)
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        raise Refused("it is no notification")
    return found


class Seen:
    """The latest ids: a notification may come twice, for instance when the answer to the first one was lost."""

    def __init__(self, most: int = KNOWN_IDS) -> None:
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()

    def is_new(self, identifier: str) -> bool:
        """Return whether it is the first time, and remember it."""
        is_new = identifier not in self._ids
        self._ids[identifier] = None
        while len(self._ids) > self._most:
            self._ids.popitem(last=False)
        return is_new


def server(port: int, secret: str) -> ThreadingHTTPServer:
    """Return a server that prints each new notification as one line of JSON."""
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        """Answers 200 for what is accepted; the runtime repeats everything else for a day."""

        timeout = 10

        def do_POST(self) -> None:
            """Verify and print one notification."""
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > MOST_BYTES:
                self.send_error(413)
                return
            body = self.rfile.read(int(length))
            try:
                # Proxies may change the case of names.
                headers = {name.title(): value for name, value in self.headers.items()}
                found = verified(secret, headers, body, time.time())
            except (Refused, ValueError) as error:
                self.send_error(401, str(error))
                return
            if seen.is_new(str(found["id"])):
                print(json.dumps(found), flush=True)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing but notifications."""

    return ThreadingHTTPServer(("", port), Handler)


if __name__ == "__main__":
    server(int(sys.argv[1]) if len(sys.argv) > 1 else 8090, os.environ["NOTIFY_SECRET"]).serve_forever()

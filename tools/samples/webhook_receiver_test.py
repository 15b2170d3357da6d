import http.client
import json
import threading
import time

import pytest

from libs.notifications.signature import SIGNATURE_HEADER, TIME_HEADER, signature_of
from tools.samples.webhook_receiver.receiver import Refused, Seen, server, verified

SECRET = "a-long-secret"
NOW = 1_800_000_000.0
BODY = b'{"id": "n1", "event": "bot.crashed"}'


def headers(body: bytes = BODY, at: float = NOW, secret: str = SECRET) -> dict[str, str]:
    timestamp = str(int(at))
    return {TIME_HEADER: timestamp, SIGNATURE_HEADER: signature_of(secret, timestamp, body)}


@pytest.mark.parametrize("seconds", [-300, 0, 300])
def test_notification_of_the_runtime_is_accepted(seconds: int) -> None:
    assert verified(SECRET, headers(at=NOW + seconds), BODY, NOW)["event"] == "bot.crashed"


@pytest.mark.parametrize(
    ("given", "body"),
    [
        (headers(secret="another"), BODY),
        (headers(), BODY + b" "),
        (headers(at=NOW - 301), BODY),
        (headers(at=NOW + 301), BODY),
        (headers() | {TIME_HEADER: str(int(NOW) + 1)}, BODY),
        ({}, BODY),
        (headers(b"[]"), b"[]"),
        (headers(b"{}"), b"{}"),
    ],
)
def test_other_requests_are_refused(given: dict[str, str], body: bytes) -> None:
    with pytest.raises(Refused):
        verified(SECRET, given, body, NOW)


def test_latest_ids_are_known() -> None:
    seen = Seen(most=2)

    assert [seen.is_new(one) for one in ("a", "a", "b", "c", "a")] == [True, False, True, True, True]


def test_server_prints_each_notification_once(capsys: pytest.CaptureFixture[str]) -> None:
    receiver = server(0, SECRET)
    thread = threading.Thread(target=receiver.serve_forever)
    thread.start()
    statuses = []
    for given in (headers(at=time.time()), headers(at=time.time()), {}):
        connection = http.client.HTTPConnection("127.0.0.1", receiver.server_address[1], timeout=60)
        connection.request("POST", "/hook", BODY, given)
        statuses.append(connection.getresponse().status)
        connection.close()
    receiver.shutdown()
    thread.join()
    receiver.server_close()

    assert statuses == [200, 200, 401]
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["n1"]

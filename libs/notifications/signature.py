"""The signature of notifications: HMAC-SHA256 over the time and the body. Receivers verify it the same way."""

import hashlib
import hmac

EVENT_HEADER = "The0-Event"
ID_HEADER = "The0-Notification"
TIME_HEADER = "The0-Timestamp"
SIGNATURE_HEADER = "The0-Signature"


def signature_of(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of the header The0-Signature: ``v1=`` and 64 hexadecimal digits.

    Args:
        timestamp: the value of the header The0-Timestamp: Unix seconds. It changes with each attempt.
    """
    digest = hmac.new(secret.encode(), timestamp.encode("ascii") + b"." + body, hashlib.sha256)
    return f"v1={digest.hexdigest()}"

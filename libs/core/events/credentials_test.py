"""`.creds` files of NATS: what is read of them, and what is refused."""

import base64
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from libs.core.events.credentials import credentials_file, parse_credentials
from libs.core.transport.watched_files import FileRejected
from tests.support.servers.nats_accounts import Key

USER, ACCOUNT = 20 << 3, 0
SEED = Key(USER).seed
FORM = """\
-----BEGIN NATS USER JWT-----
a.b.c
------END NATS USER JWT------

************************* IMPORTANT *************************
NKEY Seed printed below can be used to sign and prove identity.

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_jwt_and_key_are_read_and_the_key_signs_as_the_server_expects(newline: str) -> None:
    found = parse_credentials([FORM.format(seed=SEED).replace("\n", newline).encode()])

    assert found.jwt == "a.b.c"
    SigningKey(found.seed).verify_key.verify(b"a nonce", base64.b64decode(found.sign("a nonce")))
    assert repr(found.seed) not in repr(found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no user's JWT"),
        (SEED, "no user's JWT"),
        (FORM.partition("*")[0], "no user's JWT"),
        (FORM.format(seed=f"{SEED[:-1]}!"), "base32"),
        (FORM.format(seed=SEED[:-2]), "damaged"),
        (FORM.format(seed=SEED[:20] + ("A" if SEED[20] != "A" else "B") + SEED[21:]), "damaged"),
        (FORM.format(seed=Key(ACCOUNT).seed), "not that of a user"),
        (FORM.format(seed=Key(USER).public), "damaged"),
        (FORM.format(seed="A"), "base32"),
    ],
)
def test_file_without_valid_credentials_is_refused_with_its_setting(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "user.creds").write_text(content)

    with pytest.raises(FileRejected, match=f"NATS_CREDS_FILE.*{reason}") as caught:
        credentials_file(tmp_path / "user.creds")

    assert SEED not in str(caught.value)

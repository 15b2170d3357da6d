import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.process.service import BACKTEST_RUNNER, BOT_RUNNER, SERVICES
from libs.core.storage.code_keys import code_keys, code_prefix, holds_digest, is_code_key

DAY = 86_400.0
KEEP = 16 * DAY
DIGEST = hashlib.sha256(b"code").hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


def test_the_key_holds_service_digest_and_period() -> None:
    assert code_keys(BOT_RUNNER, DIGEST, 10 * DAY, KEEP) == (
        f".the0/code/bot-runner/{DIGEST}-{8 * 86_400}.zip",
        f".the0/code/bot-runner/{DIGEST}-{4 * 86_400}.zip",
    )


def test_code_that_is_kept_for_ever_has_one_key() -> None:
    assert code_keys(BOT_RUNNER, DIGEST, 10 * DAY, 0) == (f".the0/code/bot-runner/{DIGEST}-0.zip",)


@given(
    uploaded=st.floats(min_value=1e9, max_value=4e9),
    later=st.floats(min_value=0, max_value=1e8),
    keep=st.floats(min_value=8, max_value=1e7),
)
def test_code_is_used_again_only_in_the_first_half_of_its_time(uploaded: float, later: float, keep: float) -> None:
    key = code_keys(BOT_RUNNER, DIGEST, uploaded, keep)[0]

    is_used = key in code_keys(BOT_RUNNER, DIGEST, uploaded + later, keep)

    # Keys name whole seconds.
    assert not is_used or later <= keep / 2 + 1
    assert is_used or later >= keep / 4 - 1


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_each_key_belongs_to_one_service(service: object) -> None:
    [owner] = [one for one in SERVICES if one is service]
    keys = [key for one in SERVICES for key in code_keys(one, DIGEST, 10 * DAY, KEEP)]

    assert [key for key in keys if is_code_key(owner, key)] == list(code_keys(owner, DIGEST, 10 * DAY, KEEP))


@pytest.mark.parametrize(
    "key",
    [
        "bot.zip",
        f"user/{DIGEST}-0.zip",
        f"{code_prefix(BOT_RUNNER)}mine.zip",
        f"{code_prefix(BOT_RUNNER)}{DIGEST}.zip",
        f"{code_prefix(BOT_RUNNER)}{DIGEST}-0.zip.bak",
        f"{code_prefix(BOT_RUNNER)}x/{DIGEST}-0.zip",
        f"x/{code_prefix(BOT_RUNNER)}{DIGEST}-0.zip",
        f"{code_prefix(BACKTEST_RUNNER)}{DIGEST}-0.zip",
        f"{code_prefix(BOT_RUNNER)}{DIGEST.upper()}-0.zip",
        f"{code_prefix(BOT_RUNNER)}{DIGEST}-0.zip\n",
    ],
)
def test_other_keys_are_not_the_tools_own(key: str) -> None:
    assert not is_code_key(BOT_RUNNER, key)


def test_digest_is_read_from_key() -> None:
    [key] = code_keys(BOT_RUNNER, DIGEST, 0, 0)

    assert holds_digest(BOT_RUNNER, key, DIGEST)
    assert not holds_digest(BOT_RUNNER, key, OTHER)
    assert not holds_digest(BACKTEST_RUNNER, key, DIGEST)

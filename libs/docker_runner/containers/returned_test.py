"""What `main` returned is checked within bounds of time and memory, wherever its text is."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from libs.core.aio.threads import Threads
from libs.core.hostile_json import Kind
from libs.core.room import MIB
from libs.docker_runner.containers.failure import Failure, FailureReason
from libs.docker_runner.containers.returned import MOST_DEPTH, MOST_VALUES, Payload, ResultChecks, Returned
from tests.support.faults.hostile_texts import corpus


@pytest_asyncio.fixture(loop_scope="session")
async def checks() -> AsyncIterator[ResultChecks]:
    threads = Threads("tests", 2)
    yield ResultChecks(threads)
    threads.close()


@pytest.fixture(params=["in memory", "in a file"])
def in_file(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "in a file")


def payload(folder: Path, text: bytes, *, in_file: bool) -> Payload:
    if not in_file:
        return Payload(text)
    (folder / "result").write_bytes(b"head\n" + text)
    return Payload(path=folder / "result", begin=5)


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b'{"a": [1, null]}', Kind.OBJECT),
        (b" [[]] ", Kind.ARRAY),
        (b"null", Kind.NULL),
        (b"-1e5", Kind.NUMBER),
        (b"false", Kind.BOOLEAN),
        (b'"x"', Kind.STRING),
    ],
)
async def test_a_result_is_kept_as_the_bytes_that_it_is(
    checks: ResultChecks, tmp_path: Path, in_file: bool, text: bytes, kind: Kind
) -> None:
    found = await checks.check(payload(tmp_path, text, in_file=in_file), MIB)

    assert isinstance(found, Returned)
    assert (found.kind, b"".join(found.pieces()), found.value()) == (kind, text, json.loads(text))


async def test_numbers_that_json_does_not_have_become_null(checks: ResultChecks, tmp_path: Path, in_file: bool) -> None:
    found = await checks.check(payload(tmp_path, b"[NaN, -Infinity, 1]", in_file=in_file), MIB)

    assert isinstance(found, Returned)
    assert found.value() == [None, None, 1]
    found.discard()
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        (b"[" * 5000 + b"]" * 5000, FailureReason.RESULT_TOO_DEEP, "is nested more than 100 levels deep"),
        (b"[" * (MOST_DEPTH + 1) + b"1" + b"]" * (MOST_DEPTH + 1), FailureReason.RESULT_TOO_DEEP, "nested"),
        (b" " * (MIB + 1), FailureReason.RESULT_TOO_LARGE, "is larger than 1 MiB"),
        (b"[1" + b"0" * 5000 + b"]", FailureReason.RESULT_NOT_JSON, "a number of more than 1,000 digits"),
        (b"{", FailureReason.RESULT_NOT_JSON, "is not JSON from byte 1 on"),
        (b"", FailureReason.RESULT_NOT_JSON, "is not JSON from byte 0 on"),
        (b'"\xff"', FailureReason.RESULT_NOT_JSON, "is not UTF-8"),
    ],
)
async def test_a_result_that_cannot_be_used_has_a_typed_reason(
    checks: ResultChecks, tmp_path: Path, in_file: bool, text: bytes, reason: FailureReason, words: str
) -> None:
    found = await checks.check(payload(tmp_path, text, in_file=in_file), MIB)

    assert isinstance(found, Failure)
    assert found.reason is reason
    assert found.message.startswith("what main returned ")
    assert words in found.message
    assert left_in(tmp_path) == []


async def test_a_result_of_too_many_values_is_refused(checks: ResultChecks, tmp_path: Path) -> None:
    text = b'{"a": [' + b"[]," * MOST_VALUES + b"[]]}"

    found = await checks.check(payload(tmp_path, text, in_file=True), 64 * MIB)

    assert isinstance(found, Failure)
    assert (found.reason, found.message) == (
        FailureReason.RESULT_TOO_MANY_VALUES,
        "what main returned has more than 10,000,000 values",
    )


async def test_hostile_result_is_never_an_internal_error(checks: ResultChecks, tmp_path: Path) -> None:
    async def check(number: int, text: bytes) -> Returned | Failure:
        (folder := tmp_path / str(number)).mkdir()
        return await checks.check(payload(folder, text, in_file=number % 2 == 0), MIB)

    texts = corpus(MIB).values()
    found = await asyncio.gather(*(check(number, text) for number, text in enumerate(texts)))

    assert sum(isinstance(one, Failure) for one in found) > len(found) / 3


async def test_a_file_that_cannot_be_checked_is_a_failure(checks: ResultChecks, tmp_path: Path) -> None:
    found = await checks.check(Payload(path=tmp_path / "gone"), MIB)

    assert isinstance(found, Failure)
    assert found.reason is FailureReason.RESULT_TOO_COMPLEX


async def test_a_check_that_is_cancelled_leaves_nothing(checks: ResultChecks, tmp_path: Path) -> None:
    checking = asyncio.create_task(checks.check(payload(tmp_path, b"[" + b"[[[1]]]," * MIB, in_file=True), 64 * MIB))
    await asyncio.sleep(0)

    checking.cancel()
    await asyncio.gather(checking, return_exceptions=True)

    assert checking.cancelled()
    assert left_in(tmp_path) == []

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from libs.core.transport.worker_key import KeyFileUnusable, WorkerKey, new_challenge, proves

CHALLENGE = b"c" * 32


def test_key_is_created_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    first, second = WorkerKey.load(tmp_path / "work"), WorkerKey.load(tmp_path / "work")

    assert first == second
    assert [(file.name, file.stat().st_mode & 0o777) for file in (tmp_path / "work").iterdir()] == [
        ("worker.key", 0o600)
    ]
    assert first.seed.hex() not in repr(first)


def test_workers_that_start_together_get_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: WorkerKey.load(tmp_path), range(32)))

    assert len({key.seed for key in keys}) == 1


def test_key_that_others_could_read_becomes_private(tmp_path: Path) -> None:
    key = WorkerKey.load(tmp_path)
    (tmp_path / "worker.key").chmod(0o644)

    assert WorkerKey.load(tmp_path) == key
    assert (tmp_path / "worker.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "00", "not hexadecimal", "zz" * 32, "00" * 33])
def test_damaged_key_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "worker.key").write_text(content)

    key = WorkerKey.load(tmp_path)

    assert len(key.seed) == 32
    assert WorkerKey.load(tmp_path) == key


def test_folder_that_cannot_be_used_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(KeyFileUnusable, match="set TEMP_DIR to a folder that it can write"):
        WorkerKey.load(tmp_path / "file")


def test_signature_proves_key_challenge_and_process(tmp_path: Path) -> None:
    key = WorkerKey.load(tmp_path)

    assert proves(key.public, key.sign(CHALLENGE, "a", "a-1"), CHALLENGE, "a", "a-1")


@pytest.mark.parametrize(
    ("challenge", "worker_id", "instance_id"),
    [(b"d" * 32, "a", "a-1"), (CHALLENGE, "b", "a-1"), (CHALLENGE, "a", "a-2"), (CHALLENGE, "aa", "-1")],
)
def test_signature_proves_nothing_else(tmp_path: Path, challenge: bytes, worker_id: str, instance_id: str) -> None:
    key = WorkerKey.load(tmp_path)
    signature = key.sign(CHALLENGE, "a", "a-1")

    assert not proves(key.public, signature, challenge, worker_id, instance_id)


@pytest.mark.parametrize("public", [b"", b"short", b"\0" * 32, b"\xff" * 32, b"x" * 4096])
@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"x" * 4096])
def test_nonsense_proves_nothing(public: bytes, signature: bytes) -> None:
    assert not proves(public, signature, CHALLENGE, "a", "a-1")


def test_signature_of_another_key_proves_nothing(tmp_path: Path) -> None:
    key, other = WorkerKey.load(tmp_path / "a"), WorkerKey.load(tmp_path / "b")

    assert not proves(key.public, other.sign(CHALLENGE, "a", "a-1"), CHALLENGE, "a", "a-1")


def test_challenges_differ() -> None:
    assert new_challenge() != new_challenge()

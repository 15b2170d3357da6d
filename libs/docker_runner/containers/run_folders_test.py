"""The files that a container gets, and those that it leaves."""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from libs.docker_runner.containers.container import ContainerState, EndReason, ManagedContainer, from_labels
from libs.docker_runner.containers.keepalive import KeepaliveFile
from libs.docker_runner.containers.returned import NO_PAYLOAD, SMALL_BYTES, Payload
from libs.docker_runner.containers.run_folders import Outcome, RunFolders
from libs.docker_runner.containers.starting import check_script
from libs.docker_runner.errors import EntrypointMissing
from libs.docker_runner.executable import Limits, Question
from libs.docker_runner.executable_test import BOT
from libs.docker_runner.sandbox.init import program
from tests.support.faults.hostile_texts import corpus


@pytest.fixture
def folders(tmp_path: Path) -> RunFolders:
    made = RunFolders(tmp_path)
    made.prepare()
    return made


def container(token: str = "t") -> ManagedContainer:
    labels = {"runtime.scope": BOT.scope, "runtime.token": token}
    return from_labels(labels, container_id="c", name="n", state=ContainerState.EXITED)


def test_bot_receives_its_id_and_config(folders: RunFolders, tmp_path: Path) -> None:
    paths = folders.create(replace(BOT, id="../x", config={"a": "ü"}), "n", "t", Path("/code"))
    assert json.loads((paths.spec / "spec.json").read_text())["id"] == "../x"
    assert json.loads((paths.spec / "config.json").read_text()) == {"a": "ü"}
    assert paths.spec.is_relative_to(tmp_path / "runs")


def test_no_other_user_of_the_host_can_read_it(folders: RunFolders, tmp_path: Path) -> None:
    folders.create(BOT, "n", "t", Path("/code"))
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o700


def test_what_the_supervisor_left_is_read_back(folders: RunFolders) -> None:
    paths = folders.create(BOT, "n", "t", Path("/code"))
    head = '{"reason": "exit", "kind": "result", "cpu_seconds": 1.5, "peak_memory_bytes": 9, "oom_kills": null}\n'
    paths.outcome.write_text(head + '{"a": 1}')
    expected = Outcome("exit", "result", Payload(b'{"a": 1}'), 1.5, 9, 0)
    assert folders.read_outcome(container(), 100) == expected


@pytest.mark.parametrize("left", [b"", b"garbage", b"[]\nx", b'{"reason": {}, "cpu_seconds": "x"}\n', b"\xff" * 9999])
def test_nonsense_that_a_bot_left_is_no_error(folders: RunFolders, left: bytes) -> None:
    folders.create(BOT, "n", "t", Path("/code")).outcome.write_bytes(left)
    assert folders.read_outcome(container(), 100).cpu_seconds is None


@pytest.mark.parametrize("name", sorted(corpus(4095)))
def test_an_outcome_of_hostile_text_is_read_as_one_without_numbers(folders: RunFolders, name: str) -> None:
    folders.create(BOT, "n", "t", Path("/code")).outcome.write_bytes(corpus(4095)[name])

    found = folders.read_outcome(container(), 100)

    assert found.reason in ("", "running")
    assert (found.cpu_seconds, found.stats, folders.read_stats(container())) == (None, None, None)


def _symlink(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize("replaced", [_symlink, _sparse, os.mkfifo, Path.mkdir, lambda path: None])
def test_an_outcome_that_is_no_regular_file_is_read_as_none_at_once(
    folders: RunFolders, replaced: Callable[[Path], None]
) -> None:
    outcome = folders.create(BOT, "n", "t", Path("/code")).outcome
    outcome.unlink()
    replaced(outcome)

    assert replace(folders.read_outcome(container(), 100), too_large=False) == Outcome()
    assert folders.read_stats(container()) is None


def test_a_link_in_place_of_the_outcome_is_not_followed(folders: RunFolders, tmp_path: Path) -> None:
    outcome = folders.create(BOT, "n", "t", Path("/code")).outcome
    outcome.unlink()
    secret = tmp_path / "secret"
    secret.write_text('{"reason": "exit", "kind": "result"}\n{"key": "of another bot"}')
    outcome.symlink_to(secret)

    assert folders.read_outcome(container(), 100) == Outcome()


def test_a_payload_over_the_limit_is_not_read(folders: RunFolders) -> None:
    folders.create(BOT, "n", "t", Path("/code")).outcome.write_bytes(b'{"kind": "result"}\n' + b"x" * 101)
    found = folders.read_outcome(container(), 100)
    assert (found.payload, found.too_large) == (NO_PAYLOAD, True)


def test_a_payload_that_is_not_small_stays_in_its_file(folders: RunFolders, tmp_path: Path) -> None:
    head, text = b'{"reason": "exit", "kind": "result"}\n', b"x" * (SMALL_BYTES + 1)
    outcome = folders.create(BOT, "n", "t", Path("/code")).outcome
    outcome.write_bytes(head + text)

    found = folders.keep_payload(folders.read_outcome(container(), len(text)), tmp_path / "kept")
    folders.remove(BOT.scope, "n", "t")

    assert found.payload == Payload(path=tmp_path / "kept", begin=len(head))
    assert (tmp_path / "kept").read_bytes() == head + text


def test_a_payload_whose_file_cannot_be_kept_is_lost(folders: RunFolders, tmp_path: Path) -> None:
    outcome = folders.create(BOT, "n", "t", Path("/code")).outcome
    outcome.write_bytes(b'{"reason": "exit", "kind": "result"}\n' + b"x" * (SMALL_BYTES + 1))

    found = folders.keep_payload(folders.read_outcome(container(), 1 << 30), tmp_path / "nowhere" / "kept")

    assert (found.reason, found.payload) == ("", NO_PAYLOAD)


def test_the_first_reason_of_a_stop_stays(folders: RunFolders) -> None:
    folders.create(BOT, "n", "t", Path("/code"))
    assert folders.stop_reason(container()) is None
    folders.mark_stopped(container(), EndReason.TIMEOUT)
    folders.mark_stopped(container(), EndReason.STOPPED)
    assert folders.stop_reason(container()) is EndReason.TIMEOUT


def test_the_starts_of_a_name_do_not_share_a_folder(folders: RunFolders) -> None:
    for token in ("t1", "t2"):
        folders.create(BOT, "n", token, Path("/code"))
    folders.remove(BOT.scope, "n", "t1")
    folders.remove(BOT.scope, "n", "t1")
    assert [(name, token) for name, token, _ in folders.starts(BOT.scope)] == [("n", "t2")]


def test_the_entrypoints_are_copied_as_they_are(folders: RunFolders) -> None:
    source = Path(__file__).parents[1] / "entrypoints"
    for name in (
        "python/start.py",
        "python/the0_bot_process.py",
        "node/the0_bot_process.js",
        "guard/network_guard.py",
        "guard/nftables.py",
    ):
        assert (folders.entrypoints / name).read_bytes() == (source / name).read_bytes()


def test_the_init_of_this_machine_is_beside_the_entrypoints_and_can_be_executed(folders: RunFolders) -> None:
    for language in ("python", "node"):
        path = folders.entrypoints / language / "the0-init"
        assert path.read_bytes() == program(platform.machine())
        assert path.stat().st_mode & 0o777 == 0o555


def test_init_receives_limits_and_lease_as_lines_of_numbers(folders: RunFolders, tmp_path: Path) -> None:
    KeepaliveFile(tmp_path / "keepalive").refresh(time.monotonic() + 3600)
    limits = Limits(result_bytes=1, output_bytes_per_second=2, output_burst_bytes=3)

    bot = replace(BOT, limits=limits, keepalive=tmp_path / "keepalive")
    paths = folders.create(bot, "n", "t", Path("/code"))
    folders.tell_init(paths, bot, 30_006, 99)
    folders.tell_init(paths, bot, 30_007, 99)

    assert (paths.spec / "init.conf").read_text().splitlines() == [
        "uid=30007", "gid=30007", "result_bytes=1", "output_bytes_per_second=2", "output_burst_bytes=3",
        "state=/state", "state_bytes=99", "state_files=4096", "state_kept=1", "state_restored=0",
        "keepalive_ttl_seconds=4.750",
    ]  # fmt: skip


def test_the_copied_entrypoint_is_compiled_where_the_images_interpreter_looks_for_it(folders: RunFolders) -> None:
    source = folders.entrypoints / "python" / "the0_bot_process.py"
    loader = SourceFileLoader("the0_bot_process", str(source))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "source_to_code", lambda *_: pytest.fail("compiled again"))
        code = loader.get_code("the0_bot_process")
    assert code is not None
    assert code.co_filename == str(source)


def test_preparing_twice_is_harmless(folders: RunFolders, tmp_path: Path) -> None:
    folders.prepare()
    assert len(list((tmp_path / "entrypoints").iterdir())) == 1


@pytest.mark.parametrize("runtime", ["python3.11", "nodejs20"])
@pytest.mark.parametrize("script", ["../x.py", "../x", "/etc/passwd", "a\0b", "out.py", "nope.py", ".", "sub", "o"])
def test_an_entrypoint_must_be_a_file_of_the_bots(tmp_path: Path, script: str, runtime: str) -> None:
    (tmp_path / "x.py").touch()
    (tmp_path / "x.js").touch()
    (tmp_path / "code" / "sub").mkdir(parents=True)
    (tmp_path / "code" / "out.py").symlink_to("../x.py")
    (tmp_path / "code" / "o.js").symlink_to("../x.js")
    with pytest.raises(EntrypointMissing, match="archive"):
        check_script(tmp_path / "code", script, runtime)


def test_an_entrypoint_may_be_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "main.py").touch()
    check_script(tmp_path, "sub/main.py", "python3.11")


@pytest.mark.parametrize("suffix", [".js", ".mjs", ".cjs"])
def test_an_entrypoint_for_node_may_lack_its_suffix(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / f"index{suffix}").touch()
    check_script(tmp_path, "dist/index", "nodejs20")
    with pytest.raises(EntrypointMissing):
        check_script(tmp_path, "dist/index", "python3.11")


def test_query_process_receives_its_file_and_its_question(folders: RunFolders) -> None:
    beside = folders.create(replace(BOT, query="query.py"), "n", "t", Path("/code"))
    once = folders.create(replace(BOT, script="q.py", question=Question("/a", "{}")), "n", "u", Path("/code"))
    folders.tell_init(beside, BOT, 30_001, 99, 30_002)
    folders.tell_init(once, BOT, 30_001, 99)

    specs = [json.loads((paths.spec / "spec.json").read_text()) for paths in (beside, once)]
    assert [(spec["query"], spec["question"]) for spec in specs] == [
        ("query.py", None),
        ("q.py", {"path": "/a", "parameters": "{}"}),
    ]
    assert "query_uid=30002\n" in (beside.spec / "init.conf").read_text()
    assert "query_uid" not in (once.spec / "init.conf").read_text()

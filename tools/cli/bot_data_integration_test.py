"""`runtime bot data` over a real storage."""

import io
import json
import os
from pathlib import Path

import pytest
from minio import Minio

from libs.core.room import MIB
from tests.support.rigs.commands import Commands
from tools.cli.exit_codes import ExitCode
from tools.stack.s3 import S3Server


def _keys(s3_server: S3Server, bucket_prefix: str) -> list[str]:
    storage = Minio(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, secure=False)
    found = storage.list_objects(f"{bucket_prefix}bots", prefix=".the0/data/", recursive=True)
    return sorted(one.object_name or "" for one in found)


def test_data_set_is_put_listed_replaced_and_removed(
    commands: Commands, s3_server: S3Server, bucket_prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("1,2,3")

    first = commands.json("bot", "data", "put", "prices", str(file))
    same = commands.json("bot", "data", "put", "prices", str(file))
    file.write_text("4,5,6")
    second = commands.json("bot", "data", "put", "prices", str(file))

    assert [first["changed"], same["changed"], second["changed"]] == [True, False, True]
    assert first["version"] == same["version"] != second["version"]
    [row] = commands.json("bot", "data", "ls")
    assert (row["name"], row["kind"], row["files"], row["bytes"]) == ("prices", "file", 1, 5)
    assert row["version"] == second["version"]
    listed = commands.text("bot", "data", "ls")
    assert second["version"] in listed
    assert " 5 bytes " in listed
    names = [key.rsplit("/", 1)[1] for key in _keys(s3_server, bucket_prefix)]
    assert [name.split("-")[0] for name in names] == [*sorted((first["sha256"], second["sha256"])), "prices.json"]

    assert commands.text("bot", "data", "rm", "prices") == "prices is removed.\n"
    assert commands.json("bot", "data", "ls") == []


def test_same_content_under_two_names_is_stored_once(
    commands: Commands, s3_server: S3Server, bucket_prefix: str, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text("1")
        os.utime(tmp_path / name / "a.csv", (0, 0) if name == "one" else None)
        commands.text("bot", "data", "put", name, str(tmp_path / name))

    assert len([key for key in _keys(s3_server, bucket_prefix) if "/content/" in key]) == 1
    assert [row["name"] for row in commands.json("bot", "data", "ls")] == ["one", "two"]


@pytest.mark.parametrize("name", ["a/b", "..", "", "é", "a" * 64])
def test_invalid_name_is_refused(commands: Commands, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("1")

    code, out, err = commands.run("bot", "data", "put", name, str(tmp_path / "file"))

    assert (code, out) == (ExitCode.USAGE, "")
    assert "cannot name a data set: a name has 1 to 63 letters" in err
    assert commands.run("bot", "data", "rm", name)[0] == ExitCode.NOT_FOUND


def test_folder_without_files_or_with_links_out_of_it_is_refused(commands: Commands, tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    assert "has no files" in commands.run("bot", "data", "put", "a", str(folder))[2]

    for target in (outside, Path("/etc/passwd")):
        (folder / "link").symlink_to(target)
        code, _, err = commands.run("bot", "data", "put", "a", str(folder))
        assert (code, "is a link that leads out of" in err) == (ExitCode.USAGE, True)
        (folder / "link").unlink()
    assert commands.json("bot", "data", "ls") == []


def test_bucket_and_prefix_are_settings(
    commands: Commands, s3_server: S3Server, bucket_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIO_DATA_BUCKET", f"{bucket_prefix}data")
    monkeypatch.setenv("MINIO_DATA_PREFIX", "shared/")
    (tmp_path / "file").write_text("1")

    commands.text("bot", "data", "put", "prices", str(tmp_path / "file"))

    storage = Minio(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, secure=False)
    found = [one.object_name or "" for one in storage.list_objects(f"{bucket_prefix}data", recursive=True)]
    assert [key.split("/")[:2] for key in sorted(found)] == [["shared", "content"], ["shared", "names"]]
    assert [row["name"] for row in commands.json("bot", "data", "ls")] == ["prices"]


def test_data_set_in_use_is_removed_only_by_force(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    commands.text("bot", "data", "put", "prices", str(tmp_path / "file"))
    bots, schedules = commands.mongo["bot_runner"]["bots"], commands.mongo["bot_scheduler"]["bot_schedules"]
    bots.insert_many(
        [
            {"id": "user", "segment_id": 1, "config": {"dataSets": ["other", "prices"]}},
            {"id": "own meaning", "segment_id": 1, "config": {"dataSets": "prices"}},
            {"id": "no user", "segment_id": 1, "config": {"dataSets": ["other"]}},
        ]
    )
    schedules.insert_one({"id": "s", "segment_id": 1, "custom": {"config": {"dataSets": ["prices"]}}})

    code, _, err = commands.run("bot", "data", "rm", "prices")

    assert code == ExitCode.FAILED
    assert "is named by 1 bot ('user'), 1 schedule ('s')" in err
    assert [row["name"] for row in commands.json("bot", "data", "ls")] == ["prices"]
    assert commands.text("bot", "data", "rm", "prices", "--force") == "prices is removed.\n"


def test_data_set_of_another_owner_is_neither_replaced_nor_removed(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    commands.text("bot", "data", "put", "prices", str(tmp_path / "file"), "--owner", "ann")
    (tmp_path / "file").write_text("2")
    before = commands.json("bot", "data", "ls")

    replaced = commands.run("bot", "data", "put", "prices", str(tmp_path / "file"), "--owner", "bob")
    removed = commands.run("bot", "data", "rm", "prices", "--force")

    assert replaced[0] == removed[0] == ExitCode.USAGE
    assert (
        "data set 'prices' is of owner 'ann', and not of 'bob'; choose another name, or name its owner" in replaced[2]
    )
    assert "data set 'prices' is of owner 'ann'" in removed[2]
    assert commands.json("bot", "data", "ls") == before
    assert commands.json("bot", "data", "put", "prices", str(tmp_path / "file"), "--owner", "ann")["changed"] is True
    assert commands.text("bot", "data", "rm", "prices", "--owner", "ann") == "prices is removed.\n"


def test_data_set_without_an_owner_gets_the_next_one(
    commands: Commands, s3_server: S3Server, bucket_prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("1")
    commands.text("bot", "data", "put", "prices", str(tmp_path / "file"), "--owner", "ann")
    storage = Minio(s3_server.endpoint, s3_server.access_key, s3_server.secret_key, secure=False)
    [key] = [key for key in _keys(s3_server, bucket_prefix) if key.endswith("prices.json")]
    stored = json.loads(storage.get_object(f"{bucket_prefix}bots", key).read())
    del stored["owner"]  # as earlier versions wrote it
    content = json.dumps(stored).encode()
    storage.put_object(f"{bucket_prefix}bots", key, io.BytesIO(content), len(content))

    done = commands.json("bot", "data", "put", "prices", str(tmp_path / "file"), "--owner", "bob")

    assert (done["owner"], done["changed"]) == ("bob", True)


@pytest.mark.parametrize("owner", ["", " ", "a\nb", "x" * 201])
def test_invalid_owner_is_refused(commands: Commands, tmp_path: Path, owner: str) -> None:
    (tmp_path / "file").write_text("1")

    code, _, err = commands.run("bot", "data", "put", "prices", str(tmp_path / "file"), "--owner", owner)

    assert (code, "cannot own a data set" in err) == (ExitCode.USAGE, True)


def test_data_sets_of_an_owner_fit_the_quota_of_that_owner(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTA_DATA_MB", "1")
    half, whole = tmp_path / "half", tmp_path / "whole"
    half.write_bytes(bytes(MIB // 2))
    whole.write_bytes(bytes(MIB))
    put = ("bot", "data", "put")
    commands.text(*put, "a", str(half), "--owner", "ann")

    code, _, err = commands.run(*put, "b", str(whole), "--owner", "ann")

    assert code == ExitCode.USAGE
    assert "quota of owner 'ann': other data sets have 0.5 MiB of 1.0, and 'b' has 1.0 (QUOTA_DATA_MB)" in err
    commands.text(*put, "b", str(whole), "--owner", "bob")
    commands.text(*put, "a", str(whole), "--owner", "ann")
    assert [(row["name"], row["owner"]) for row in commands.json("bot", "data", "ls")] == [("a", "ann"), ("b", "bob")]


def test_changes_of_data_sets_are_audited(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE0_OWNER", "ann")
    (tmp_path / "file").write_text("1")
    version = commands.json("bot", "data", "put", "prices", str(tmp_path / "file"))["version"]
    commands.json("bot", "data", "put", "prices", str(tmp_path / "file"))
    commands.text("bot", "data", "rm", "prices")

    rows = commands.json("audit", "--id", "data set prices")

    assert [(row["action"], row["detail"]) for row in rows] == [
        ("deleted", "owner ann"),
        ("updated", f"version {version}, owner ann"),
    ]
    assert all(row["who"] and row["way"] == "command" for row in rows)


def test_unknown_name_and_empty_list_are_reported(commands: Commands) -> None:
    assert commands.text("bot", "data", "ls") == "There are no data sets.\n"
    code, _, err = commands.run("bot", "data", "rm", "prices")
    assert (code, "there is no data set 'prices'" in err) == (ExitCode.NOT_FOUND, True)

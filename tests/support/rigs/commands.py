"""The `runtime` command with real servers, called in this process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from libs.core.process.service import SERVICES
from tools.cli.exit_codes import ExitCode
from tools.cli.main import run
from tools.stack.s3 import S3Server


class Commands:
    """Runs commands, with the output of each. *mongo* is the server that they use."""

    def __init__(self, captured: pytest.CaptureFixture[str], mongo: MongoClient[dict[str, Any]]) -> None:
        self._captured = captured
        self.mongo = mongo

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, output and errors."""
        code = run(list(arguments))
        out, err = self._captured.readouterr()
        assert "Traceback" not in err, err
        return code, out, err

    def json(self, *arguments: str) -> Any:
        """Return the JSON output; nothing else may be printed."""
        code, out, err = self.run(*arguments, "--output", "json")
        assert code == ExitCode.OK, err
        return json.loads(out)

    def text(self, *arguments: str) -> str:
        """Return the text output."""
        code, out, err = self.run(*arguments)
        assert code == ExitCode.OK, err
        return out


@pytest.fixture
def server_variables(mongo_uri: str, s3_server: S3Server, bucket_prefix: str) -> dict[str, str]:
    """The environment by which a command finds the servers, without NATS."""
    return {
        "MONGO_URI": mongo_uri,
        "MINIO_ENDPOINT": s3_server.endpoint,
        "MINIO_ACCESS_KEY_ID": s3_server.access_key,
        "MINIO_SECRET_ACCESS_KEY": s3_server.secret_key,
        "MINIO_BOTS_BUCKET": f"{bucket_prefix}bots",
        "MINIO_RESULTS_BUCKET": f"{bucket_prefix}results",
        "MINIO_LOGS_BUCKET": f"{bucket_prefix}logs",
        "MINIO_STATE_BUCKET": f"{bucket_prefix}state",
    }


@pytest.fixture
def commands(
    mongo_uri: str,
    server_variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Commands]:
    """Commands without NATS, so that announced entities are in MongoDB at once."""
    monkeypatch.delenv("NATS_URL", raising=False)
    for name, value in {
        "RUNTIME_HOME": str(tmp_path / "home"),
        **server_variables,
    }.items():
        monkeypatch.setenv(name, value)
    client: MongoClient[dict[str, Any]] = MongoClient(mongo_uri, serverSelectionTimeoutMS=30_000, tz_aware=True)
    with client:
        yield Commands(capsys, client)
        # The names of the databases are fixed, and the server is shared.
        for service in SERVICES:
            client.drop_database(service.database)

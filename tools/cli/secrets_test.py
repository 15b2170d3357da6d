import io
import json
import sys
from pathlib import Path

import pytest

from libs.core.secrets.sealing import keys_in, unseal
from tools.cli.exit_codes import ExitCode
from tools.cli.main import run


class Input:
    """Standard input with a text."""

    def __init__(self, text: bytes) -> None:
        self.buffer = io.BytesIO(text)

    def isatty(self) -> bool:
        """It is a pipe."""
        return False


def test_value_sealed_with_the_printed_key_opens_with_the_written_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    assert run(["secrets", "keygen", str(file)]) == ExitCode.OK
    public = capsys.readouterr().out.strip()
    monkeypatch.setattr(sys, "stdin", Input(b"hunter22\n"))

    assert run(["secrets", "seal", "--key", public, "--owner", "ann"]) == ExitCode.OK

    sealed = json.loads(capsys.readouterr().out)["$sealed"]
    assert unseal(sealed, keys_in(file.read_text())) == ("ann", "hunter22")
    assert file.stat().st_mode & 0o777 == 0o600


def test_existing_key_file_is_kept_unless_a_key_is_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys"
    run(["secrets", "keygen", str(file)])
    before = file.read_text()

    assert run(["secrets", "keygen", str(file)]) == ExitCode.USAGE
    assert file.read_text() == before
    assert "--append" in capsys.readouterr().err
    assert run(["secrets", "keygen", "--append", str(file)]) == ExitCode.OK
    assert file.read_text().startswith(before)
    assert len(keys_in(file.read_text())) == 2


@pytest.mark.parametrize(
    ("key", "owner", "text"),
    [("nonsense", "ann", b"value"), ("", "", b"value"), ("", "ann", b"\n"), ("", "a", b"\xff")],
)
def test_seal_refuses_wrong_input_without_showing_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    owner: str,
    text: bytes,
) -> None:
    run(["secrets", "keygen", str(tmp_path / "keys")])
    public = key or capsys.readouterr().out.strip()
    monkeypatch.setattr(sys, "stdin", Input(text))

    assert run(["secrets", "seal", "--key", public, "--owner", owner]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert "value" not in printed.out

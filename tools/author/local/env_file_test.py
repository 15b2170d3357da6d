from pathlib import Path

import pytest

from tools.author.local.env_file import divided, read_env_file
from tools.bots.errors import BotFolderInvalid


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"),
        ("export A = two words ", "two words"),
        ("A=", ""),
        ("A=x#y", "x#y"),
        ("A=x # a comment", "x"),
        ("A='x # $y \\n'", "x # $y \\n"),
        ('A="x\\ny \\"z\\"" # a comment', 'x\ny "z"'),
        ("A=a=b=", "a=b="),
        ('A="', '"'),
        ("# A=2\n\nA=1", "1"),
        ("A=2\nA=1", "1"),
        (
            'A="-----BEGIN KEY-----\n  a+b/c=\n-----END KEY-----" # mine',
            "-----BEGIN KEY-----\n  a+b/c=\n-----END KEY-----",
        ),
        ("A='x\n#y\n'", "x\n#y\n"),
        ('A="x\n\\"y\\"\n"', 'x\n"y"\n'),
    ],
)
def test_line_gives_a_variable(tmp_path: Path, line: str, value: str) -> None:
    (tmp_path / "env").write_text(line)

    assert read_env_file(tmp_path / "env") == {"A": value}


def test_quote_without_an_end_takes_no_further_line(tmp_path: Path) -> None:
    (tmp_path / "env").write_text('A="x\nB="y"\nC=it\'s\nD=\'')

    assert read_env_file(tmp_path / "env") == {"A": '"x', "B": "y", "C": "it's", "D": "'"}


@pytest.mark.parametrize("line", ["s3cret", "1A=s3cret", "A B=s3cret", "=s3cret", "A=s3cret\0"])
def test_other_line_is_reported_by_its_number_without_its_content(tmp_path: Path, line: str) -> None:
    (tmp_path / "env").write_text(f"OK=1\n{line}\n")

    with pytest.raises(BotFolderInvalid, match="env:2: is not NAME=VALUE") as refused:
        read_env_file(tmp_path / "env")
    assert "s3cret" not in str(refused.value)


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BotFolderInvalid, match="env cannot be read: No such file or directory"):
        read_env_file(tmp_path / "env")


def test_file_that_is_not_utf_8_is_reported_with_remedy(tmp_path: Path) -> None:
    (tmp_path / "env").write_bytes(b"A=\xff")

    with pytest.raises(BotFolderInvalid, match="is not UTF-8; save the file as UTF-8"):
        read_env_file(tmp_path / "env")


def test_secrets_are_not_variables_of_the_bot() -> None:
    assert divided({"A": "1", "THE0_SECRET_key": "2"}) == ({"A": "1"}, {"THE0_SECRET_key": "2"})

from pathlib import Path

import pytest

from libs.core.transport.tokens import SharedTokens, parse_tokens, token_file
from libs.core.transport.watched_files import FileRejected

OLD, NEW = "old-token-of-20-bytes", "new-token-of-20-bytes"


def test_without_tokens_everything_is_accepted() -> None:
    tokens = SharedTokens()

    assert tokens.accepts("")
    assert tokens.accepts(OLD)
    assert (tokens.required, tokens.own) == (False, None)


@pytest.mark.parametrize("presented", ["", OLD[:-1], f"{OLD} ", f"{OLD},{NEW}", "ü" * 20])
def test_other_token_is_not_accepted(presented: str) -> None:
    assert not SharedTokens(lambda: (OLD, NEW)).accepts(presented)


def test_each_of_several_tokens_is_accepted_and_the_first_is_sent() -> None:
    tokens = SharedTokens(lambda: (NEW, OLD))

    assert tokens.accepts(OLD)
    assert tokens.accepts(NEW)
    assert tokens.own == NEW


@pytest.mark.parametrize("text", [f"{NEW}\n{OLD}\n", f"# rotated today\n {NEW} \r\n\n{OLD}", f"{NEW},{OLD}"])
def test_tokens_are_separated_by_lines_and_commas(text: str) -> None:
    assert parse_tokens("T", text) == (NEW, OLD)


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "short", f"{OLD}\nwith a space inside"])
def test_text_without_a_valid_token_is_refused(text: str) -> None:
    with pytest.raises(FileRejected):
        parse_tokens("T", text)


def test_replaced_token_file_is_used_and_an_empty_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(OLD)
    tokens = token_file("GRPC_TOKEN_FILE", file)

    file.write_text("")
    assert tokens.accepts(OLD)
    assert not tokens.accepts("")
    file.write_text(f"{NEW}\n{OLD}\n")

    assert (tokens.own, tokens.accepts(OLD)) == (NEW, True)

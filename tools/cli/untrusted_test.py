import json

import pytest

from tools.cli.untrusted import harmless, harmless_json

ACTING = [
    ("\x1b[2J\x1b[H", "\\x1b[2J\\x1b[H"),
    ("\x1b]52;c;cm0gLXJm\x07", "\\x1b]52;c;cm0gLXJm\\x07"),
    ("price\rPRICE", "price\\rPRICE"),
    ("a\x08b\x7f", "a\\x08b\\x7f"),
    ("\x9b31m", "\\x9b31m"),
    ("safe \u202egpj.exe", "safe \\u202egpj.exe"),
    ("one\u2028two", "one\\u2028two"),
    ("\udc80", "\\udc80"),
]


@pytest.mark.parametrize(("text", "shown"), ACTING)
def test_characters_that_act_on_a_terminal_are_shown_as_escapes(text: str, shown: str) -> None:
    assert harmless(text) == shown


@pytest.mark.parametrize("text", ["plain", "a\tb", "größe 🚀 漢字", r"C:\temp \x1b"])
def test_other_text_is_shown_as_it_is(text: str) -> None:
    assert harmless(text) == text


@pytest.mark.parametrize("text", [text for text, _ in ACTING])
def test_json_keeps_its_value_and_holds_no_character_that_acts(text: str) -> None:
    made = harmless_json(json.dumps({"line": text}, ensure_ascii=False))

    assert json.loads(made) == {"line": text}
    assert harmless(made) == made

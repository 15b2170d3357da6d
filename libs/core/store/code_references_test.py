import pytest

from libs.core.store.code_references import mentioned

KEY = ".the0/code/bot-runner/x-0.zip"


@pytest.mark.parametrize(
    "document",
    [
        {"custom": {"filePath": KEY}},
        {"custom": {"filepath": KEY}},
        {"custom": {"gcsPath": f"gs://bots/{KEY}"}},
        {"release": {"previous": {"custom": {"filePath": KEY}}}},
        {"alternates": [{"content": {"custom": {"filePath": KEY}}}]},
        {"a": [[{"b": [KEY]}]]},
    ],
)
def test_a_key_is_found_wherever_it_is_mentioned(document: dict[str, object]) -> None:
    assert mentioned(document, {KEY, "other"}) == {KEY}


@pytest.mark.parametrize("text", [f"{KEY}.bak", f"see {KEY}", KEY[1:], f"gs://{KEY}", ""])
def test_other_texts_mention_no_key(text: str) -> None:
    assert mentioned({"custom": {"filePath": text}, "n": 5, "b": b"x", "none": None}, {KEY}) == set()

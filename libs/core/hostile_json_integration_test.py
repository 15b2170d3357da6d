"""Many hostile texts. They need no server, but longer than a unit test may take."""

import json

from hypothesis import given, settings

from libs.core.hostile_json import Bounds, Refused, parse
from tests.support.faults.hostile_texts import texts

SIZE = 128 * 1024
LIMITS = Bounds(bytes=SIZE, depth=100, values=10_000)


@settings(max_examples=10_000, deadline=None)
@given(texts(SIZE))
def test_any_text_is_a_value_or_a_reason(text: bytes) -> None:
    found = parse(text, LIMITS)

    if isinstance(found, Refused):
        assert str(found)
    else:
        # As text, since NaN is not equal to itself.
        assert repr(found.value) == repr(json.loads(text))

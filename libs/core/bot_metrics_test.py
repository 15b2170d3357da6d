"""Metrics in a bot's output: what counts as one, and what is kept."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.core.bot_metrics import LINE_BYTES, MetricBook, Sample, metrics_view, sample_in

NOON = 1_800_000_000.0
assert NOON % 60 == 0


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def test_value_has_the_name_of_its_kind_and_other_numbers_a_name_of_their_own() -> None:
    found = sample_in(line(_metric="price", value=5, change_pct=-2.5, symbol="BTC-USD", timestamp="2026"), NOON)

    assert found == Sample("price", NOON, {"price": 5.0, "price.change_pct": -2.5}, {"symbol": "BTC-USD"})


def test_metric_without_a_number_has_its_texts() -> None:
    assert sample_in(line(_metric="signal", direction="long", is_new=True), NOON) == Sample(
        "signal", NOON, {}, {"direction": "long", "is_new": "true"}
    )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"plain",
        b'the "_metric" field',
        b'{"_metric": "x"',
        b'["_metric"]',
        b'{"_metric": 5, "value": 1}',
        b'{"_metric": null, "value": 1}',
        b'{"_metric": "", "value": 1}',
        b'{"_metric": " ", "value": 1}',
        b'{"_metric": "a\\u0000b", "value": 1}',
        b'{"_metric": "\\ud800", "value": 1}',
        b'{"_metric": "a\\nb", "value": 1}',
        b'{"_metric": "' + b"x" * 65 + b'", "value": 1}',
        b'{"_metric": "x", "value": 1}' + b" " * LINE_BYTES,
        b'{"_metric": "x", "value": \xff}',
        b'{"a": {"_metric": "x", "value": 1}}',
        b'{"_metric": "x", "value": ' + b"[" * 1000 + b"]" * 1000 + b"}",
    ],
)
def test_line_that_is_no_metric_is_ignored(text: bytes) -> None:
    assert sample_in(text, NOON) is None


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400, "true", '"5"', "null", "[5]", '{"a": 5}']
)
def test_what_is_no_finite_number_is_no_value(value: str) -> None:
    found = sample_in(f'{{"_metric": "x", "value": {value}, "other": 1}}'.encode(), NOON)

    assert found is not None
    assert found.values == {"x.other": 1.0}


def test_fields_of_a_line_are_bounded_in_number_and_length() -> None:
    numbers = sample_in(line(_metric="x", **{f"n{i}": i for i in range(60)}), NOON)
    texts = sample_in(line(_metric="x", **{f"t{i}": "y" * 150 for i in range(10)}, **{"n" * 65: 1}), NOON)

    assert numbers is not None
    assert texts is not None
    assert len(numbers.values) == 16
    assert (len(texts.texts), set(texts.texts.values()), texts.values) == (8, {"y" * 100}, {})


def test_text_with_a_lone_surrogate_can_be_stored() -> None:
    found = sample_in(b'{"_metric": "x", "symbol": "a\\ud800"}', NOON)

    assert found is not None
    assert found.texts == {"symbol": "a?"}


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: f'{{"_metric": {json.dumps(text)}}}'.encode()))
def test_any_line_is_a_metric_or_none(data: bytes) -> None:
    found = sample_in(data, NOON)

    assert found is None or found.kind.isprintable()


def book(*samples: Sample, most: int = 20) -> MetricBook:
    made = MetricBook(most)
    for sample in samples:
        made.add(sample)
    return made


def at(seconds: float, value: float, name: str = "pnl", **texts: str) -> Sample:
    return Sample(name, NOON + seconds, {name: value}, texts)


def points(made: MetricBook, name: str = "pnl") -> dict[int, float]:
    return {minute - int(NOON // 60): value for minute, value in made.series[name].points.items()}


def test_latest_value_is_kept_with_its_texts_and_the_last_value_of_each_minute() -> None:
    made = book(at(0, 1, note="A"), at(59, 2, note="B"), at(60, 3), at(200, 4, note="C"))

    series = made.series["pnl"]
    assert (series.value, series.at, series.texts) == (4, NOON + 200, {"note": "C"})
    assert points(made) == {0: 2, 1: 3, 3: 4}


def test_each_symbol_has_a_series_of_its_own() -> None:
    made = book(at(0, 1, symbol="BTC"), at(1, 2, symbol="ETH"), at(60, 3, symbol="BTC"), at(2, 9, "fees"))
    stored = MetricBook.from_document(json.loads(json.dumps(made.to_document())), 20)

    assert points(made, "pnl[BTC]") == {0: 1, 1: 3}
    assert points(made, "pnl[ETH]") == {0: 2}
    assert stored.series == made.series
    assert [(one.name, one.value) for one in metrics_view("b1", made).metrics] == [("fees", 9), ("pnl", 3), ("pnl", 2)]


def test_name_of_a_value_has_the_symbol_if_there_are_several() -> None:
    one = book(at(0, 1, symbol="BTC"), Sample("signal", NOON, {}, {}))
    two = book(at(0, 1, symbol="BTC"), at(1, 2, symbol="ETH"), at(2, 9, "fees", symbol="ETH"))

    assert one.values() == {"pnl": 1}
    assert two.values() == {"pnl[BTC]": 1, "pnl[ETH]": 2, "fees": 9}


def test_symbol_is_kept_among_many_texts() -> None:
    found = sample_in(line(_metric="x", **{f"t{i}": "y" for i in range(9)}, symbol="BTC"), NOON)

    assert found is not None
    assert found.texts["symbol"] == "BTC"


def test_points_of_an_hour_are_kept() -> None:
    made = book(*(at(60 * minute, minute) for minute in range(100)))

    assert list(points(made)) == list(range(40, 100))


def test_line_that_arrives_late_changes_no_later_value() -> None:
    made = book(at(300, 5), at(240, 4), at(10, 1), at(70, 2), at(299, 9), at(-4000, 8))

    assert made.series["pnl"].value == 5
    assert list(points(made).items()) == [(0, 1), (1, 2), (4, 4), (5, 5)]


def test_names_beyond_the_limit_are_left_out() -> None:
    made = book(at(0, 1, "a"), at(1, 2, "b"), at(2, 3, "c"), at(3, 4, "a"), most=2)

    assert {name: series.value for name, series in made.series.items()} == {"a": 4, "b": 2}
    assert made.left_out


def test_stale_name_gives_its_place_to_a_new_one() -> None:
    made = book(at(0, 1, "a"), at(3000, 2, "b"), at(3599, 3, "c"), at(3600, 4, "d"), most=2)

    assert set(made.series) == {"b", "d"}


def test_name_without_a_line_for_a_day_is_forgotten() -> None:
    made = book(at(0, 1, "a"), at(1, 2, "b"), at(86_401, 3, "c"))
    made.forget_old()

    assert set(made.series) == {"b", "c"}


def test_book_is_the_same_after_it_was_stored() -> None:
    made = book(at(0, 1.5, note="A"), at(70, 2), Sample("s", NOON, {}, {"$a.b": "x"}), at(0, 1, "a"), most=3)
    made.add(at(1, 2, "b"))
    stored = MetricBook.from_document(json.loads(json.dumps(made.to_document())), 20)

    assert stored.series == made.series
    assert (stored.left_out, stored.newest) == (True, NOON + 70)


def test_book_continues_from_that_of_an_earlier_worker() -> None:
    earlier = book(at(0, 1, note="A"), at(60, 2), at(5, 7, "old"), at(5, 8, "older"))
    made = book(at(65, 3), at(180, 4, note="B"), most=2)
    made.continue_from(earlier)

    assert points(made) == {0: 1, 1: 3, 3: 4}
    assert (made.series["pnl"].value, made.series["pnl"].texts) == (4, {"note": "B"})
    assert set(made.series) == {"pnl", "old"}


def test_line_of_an_earlier_worker_that_is_later_stays_the_latest() -> None:
    earlier = book(at(100, 9))
    made = book(at(30, 3))
    made.continue_from(earlier)

    assert (made.series["pnl"].value, points(made)) == (9, {0: 3, 1: 9})


def test_view_has_times_and_the_names_in_order() -> None:
    shown = metrics_view("b1", book(at(61, 2, "z"), at(0, 1, "a")))

    assert [metric.name for metric in shown.metrics] == ["a", "z"]
    assert shown.metrics[1].at == datetime.fromtimestamp(NOON + 61, UTC)
    assert shown.metrics[1].points[0].at == datetime.fromtimestamp(NOON + 60, UTC)

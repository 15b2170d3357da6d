import pytest

from libs.core.placement import PlacementRejected, key_of, labels_in, lacking, placement_of, read, written


@pytest.mark.parametrize(
    "value",
    [
        {"region": "eu", "egress": "static-1"},
        ["region=eu", "egress=static-1"],
        "region=eu, egress=static-1",
        ["egress=static-1", "region=eu", "region=eu"],
    ],
)
def test_placement_has_one_canonical_text_whatever_its_form(value: object) -> None:
    assert key_of({"placement": value}) == "egress=static-1,region=eu"


@pytest.mark.parametrize("config", [{}, {"placement": None}, {"placement": {}}, {"placement": []}, {"placement": " "}])
def test_config_without_labels_has_no_placement(config: dict[str, object]) -> None:
    assert placement_of(config) == frozenset()
    assert key_of(config) == ""


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (7, "must be an object"),
        (True, "must be an object"),
        ({"egress": 1}, "not text"),
        ({"egress": None}, "not text"),
        (["egress"], "'egress' is no label; write KEY=VALUE"),
        ([["egress", "a"]], "not text"),
        ({"egress": ""}, "is no label"),
        ({"": "a"}, "is no label"),
        ({"egress": "a b"}, "is no label"),
        ({"egress": "a,region=eu"}, "has a comma"),
        ({"egress": "a=b"}, "is no label"),
        ({"egress": "a" * 64}, "is no label"),
        ({"egress": "a\nb"}, "is no label"),
        ([f"k{number}=v" for number in range(17)], "at most 16"),
    ],
)
def test_malformed_placement_is_rejected_with_its_remedy_and_counts_as_none(value: object, reason: str) -> None:
    with pytest.raises(PlacementRejected) as rejected:
        placement_of({"placement": value})

    assert reason in str(rejected.value)
    assert str(rejected.value).startswith("config.placement: ")
    assert key_of({"placement": value}) == ""


def test_labels_of_a_worker_may_have_several_values_of_a_key() -> None:
    labels = labels_in("egress=a, egress=b")

    assert read("egress=b") <= labels
    assert read(written(labels)) == labels


def test_malformed_label_of_a_worker_is_named() -> None:
    with pytest.raises(ValueError, match="'static' is no label"):
        labels_in("egress=a, static")


def test_nothing_is_lacking_where_one_worker_has_all_labels() -> None:
    assert lacking("a=1,b=2", [labels_in("a=1"), labels_in("a=1,b=2,c=3")]) == ""


def test_missing_label_is_named() -> None:
    assert lacking("a=1", [labels_in("b=2"), labels_in("")]) == "needs a worker with the label a=1, which no worker has"
    assert lacking("a=1", []) == "needs a worker with the label a=1, which no worker has"


def test_of_several_labels_those_are_named_that_the_best_worker_lacks() -> None:
    found = lacking("a=1,b=2,c=3", [labels_in("a=1"), labels_in("a=1,b=2"), labels_in("c=3")])

    assert found == "needs a worker with the labels a=1,b=2,c=3; the best one lacks c=3"

"""The order of faults."""

import random
from itertools import islice

from tests.chaos.schedule import FAMILIES, NAMES, SHORT, pairs, singles


def test_each_name_is_there_once() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_short_form_has_ten_different_families() -> None:
    families = {family for family, names in FAMILIES.items() for name in names if name in SHORT}

    assert set(SHORT) <= set(NAMES)
    assert len(families) >= 10


def test_singles_are_all_faults_in_an_order_of_the_seed() -> None:
    orders = [[name for [name] in singles(random.Random(seed))] for seed in (1, 1, 2)]

    assert sorted(orders[0]) == sorted(NAMES)
    assert orders[0] == orders[1] != orders[2]


def test_pairs_are_of_two_families_and_never_with_the_stream() -> None:
    family_of = {name: family for family, names in FAMILIES.items() for name in names}
    seen = [[family_of[name] for name in pair] for pair in islice(pairs(random.Random(1)), 500)]

    assert all(len(set(pair)) == 2 and "stream" not in pair for pair in seen)
    assert {family for pair in seen for family in pair} == set(FAMILIES) - {"stream"}

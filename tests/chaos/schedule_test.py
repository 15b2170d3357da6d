"""The order of faults."""

import random
from itertools import islice

from tests.chaos.schedule import FAMILIES, NAMES, SHORT, pairs, singles, together


def test_each_name_is_there_once() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_short_form_has_one_fault_of_each_family() -> None:
    names = [name for one in together(SHORT) for name in one]
    families = {family for family, of_family in FAMILIES.items() if set(of_family) & set(names)}

    assert set(names) <= set(NAMES)
    assert families == set(FAMILIES)


def test_singles_are_all_faults_in_an_order_of_the_seed() -> None:
    orders = [[name for [name] in singles(random.Random(seed))] for seed in (1, 1, 2)]

    assert sorted(orders[0]) == sorted(NAMES)
    assert orders[0] == orders[1] != orders[2]


def test_pairs_are_of_two_families_and_never_with_the_stream() -> None:
    family_of = {name: family for family, names in FAMILIES.items() for name in names}
    seen = [[family_of[name] for name in pair] for pair in islice(pairs(random.Random(1)), 500)]

    assert all(len(set(pair)) == 2 and "stream" not in pair for pair in seen)
    assert {family for pair in seen for family in pair} == set(FAMILIES) - {"stream"}

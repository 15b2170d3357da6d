"""The label of a container about its secrets."""

import pytest

from libs.core.secrets.references import Kind, Reference
from libs.docker_runner.containers.secret_label import SecretLabel, label_of, parsed

VALUES = ("k3y-of-ann", "0ther")
REFERENCES = (Reference(Kind.SECRET, "key"), Reference(Kind.SEALED, "v1.abc"))


def test_label_names_the_references_and_their_owner_and_has_no_value() -> None:
    label = label_of(REFERENCES, "ann", VALUES, "token")

    found = parsed(label)

    assert found is not None
    assert (found.owner, found.references) == ("ann", [{"$secret": "key"}, {"$sealed": "v1.abc"}])
    assert not any(value in label for value in VALUES)


@pytest.mark.parametrize(
    ("values", "token", "verified"),
    [
        (VALUES, "token", True),
        (VALUES[::-1], "token", True),
        (("k3y-of-ann", "changed"), "token", False),
        (VALUES[:1], "token", False),
        ((), "token", False),
        (VALUES, "another", False),
    ],
)
def test_label_verifies_the_values_of_its_own_container_only(
    values: tuple[str, ...], token: str, verified: bool
) -> None:
    found = parsed(label_of(REFERENCES, "ann", VALUES, "token"))

    assert found is not None
    assert found.verifies(values, token) is verified


def test_label_stays_short_and_then_has_no_references() -> None:
    many = [Reference(Kind.SEALED, f"v1.{'a' * 1000}{number}") for number in range(64)]

    label = label_of(many, "ann", VALUES, "token")

    found = parsed(label)
    assert len(label) < 100
    assert found is not None
    assert found.references is None
    assert found.verifies(VALUES, "token")


@pytest.mark.parametrize("label", ["no JSON", "[]", "{}", "null", "3", '{"digest": "a", "references": 3}'])
def test_malformed_label_is_one_of_a_container_with_unknown_secrets(label: str) -> None:
    assert parsed(label) == SecretLabel()
    assert not SecretLabel().verifies(VALUES, "token")


def test_container_without_a_label_has_no_secrets() -> None:
    assert parsed("") is None

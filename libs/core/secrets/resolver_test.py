import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from libs.core.secrets.errors import SecretRefused, SecretUnavailable
from libs.core.secrets.references import has_references
from libs.core.secrets.resolver import SecretResolver, SecretSources
from libs.core.secrets.sealing import MOST_BYTES, new_private_key, public_key_of, seal


def resolver(folder: Path | None = None, **more: Any) -> SecretResolver:
    sources = SecretSources(folder, **more)
    return SecretResolver(sources.providers, sources.key_file)


def value(found: SecretResolver, name: str, owner: str = "ann") -> object:
    return found.resolve({"key": {"$secret": name}}, owner).config["key"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ann's and Bob's secrets, and two shared ones."""
    for name, text in {"ann/key": "anns-key\n", "bob/key": "bobs-key", "feed": "feed-key", "desk": "desk-key"}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def allowed(**owners: str) -> Mapping[str, frozenset[str]]:
    return {name: frozenset(text.split()) for name, text in owners.items()}


def test_references_are_replaced_at_any_depth_and_the_rest_stays(folder: Path) -> None:
    config = {"a": 1.5, "b": [{"c": {"$secret": "key"}}, "x", None], "d": {"$secret": "feed"}}

    found = resolver(folder, allowed=allowed(feed="*")).resolve(config, "ann")

    assert found.config == {"a": 1.5, "b": [{"c": "anns-key"}, "x", None], "d": "feed-key"}
    assert set(found.values) == {"anns-key", "feed-key"}
    assert config["d"] == {"$secret": "feed"}


def test_config_without_references_is_returned_as_it_is() -> None:
    config = {"a": {"$other": 1}}

    assert resolver().resolve(config, "ann").config is config
    assert not has_references(config)


@pytest.mark.parametrize("owner", ["ann", "bob"])
def test_each_owner_gets_the_secret_in_its_own_folder(folder: Path, owner: str) -> None:
    assert value(resolver(folder), "key", owner) == f"{owner}s-key"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("eve", "key"),
        ("", "key"),
        ("eve", "bob/key"),
        ("eve", "../bob/key"),
        (".", "key"),
        ("..", "key"),
        ("eve/../bob", "key"),
        ("bob/", "key"),
        ("../" + "bob", "key"),
        ("eve", "feed"),
        ("eve", "bob"),
        ("feed", "feed"),
        ("eve", "desk"),
        ("*", "desk"),
        ("", "desk"),
        ("ann", "missing"),
        ("ann", ""),
        ("ann", "."),
        ("ann", ".."),
        ("ann", "key\0"),
        ("an\ud800", "key"),
        ("a" * 300, "key"),
        ("ann", "k" * 300),
    ],
)
def test_secret_of_another_owner_is_refused_as_one_that_does_not_exist(folder: Path, owner: str, name: str) -> None:
    found = resolver(folder, allowed=allowed(desk="ann bob"))

    with pytest.raises(SecretRefused) as refused:
        value(found, name, owner)

    assert "-key" not in str(refused.value)
    assert refused.value.where == "config.key"


def test_refusal_does_not_tell_whether_another_owner_has_the_secret(folder: Path) -> None:
    reasons = set()
    for name in ("desk", "none"):
        with pytest.raises(SecretRefused) as refused:
            value(resolver(folder, allowed=allowed(desk="ann")), name, "eve")
        reasons.add(refused.value.reason.replace(repr(name), ""))

    assert len(reasons) == 1


def test_shared_secret_is_for_its_owners_and_for_all_with_a_star(folder: Path) -> None:
    found = resolver(folder, allowed=allowed(desk="ann bob", feed="*"))

    assert [value(found, "desk", "bob"), value(found, "feed", "eve"), value(found, "feed", "")] == [
        "desk-key",
        "feed-key",
        "feed-key",
    ]


def test_variables_of_the_worker_are_no_secrets_even_for_an_allowed_name() -> None:
    environment = {"MONGO_URI": "mongodb://", "THE0_SECRET_desk": "desk-key", "THE0_SECRET_other": "x"}
    found = resolver(allowed=allowed(desk="ann", MONGO_URI="*"), environment=environment)

    assert value(found, "desk") == "desk-key"
    for owner, name in (("ann", "MONGO_URI"), ("bob", "desk"), ("ann", "other")):
        with pytest.raises(SecretRefused):
            value(found, name, owner)


def test_file_is_read_again_at_each_resolution(folder: Path) -> None:
    found = resolver(folder)
    before = value(found, "key")
    # As Kubernetes replaces a mounted Secret: by a link to another folder.
    (folder / "ann" / "..new").write_text("rotated")
    os.replace(folder / "ann" / "..new", folder / "ann" / "key")

    assert (before, value(found, "key")) == ("anns-key", "rotated")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"x" * (MOST_BYTES + 1)])
def test_unusable_value_is_refused_and_not_shown(folder: Path, content: bytes) -> None:
    (folder / "ann" / "key").write_bytes(content)

    with pytest.raises(SecretRefused) as refused:
        value(resolver(folder), "key")

    assert "xx" not in str(refused.value)


def test_only_one_line_end_is_no_part_of_the_value(folder: Path) -> None:
    (folder / "ann" / "key").write_bytes(b" two\nlines \n\r\n")

    assert value(resolver(folder), "key") == " two\nlines \n"


def test_pipe_and_folder_are_no_secrets(folder: Path) -> None:
    os.mkfifo(folder / "ann" / "pipe")
    (folder / "ann" / "folder").mkdir()

    for name in ("pipe", "folder"):
        with pytest.raises(SecretRefused):
            value(resolver(folder), name)


def test_missing_provider_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecretRefused, match="SECRETS_DIR"):
        value(resolver(), "key")
    with pytest.raises(SecretUnavailable, match="SECRETS_DIR"):
        value(resolver(tmp_path / "none"), "key")


@pytest.mark.parametrize(
    "reference", [{"$secret": ""}, {"$secret": 1}, {"$secret": "key", "x": 1}, {"$secret": "a", "$sealed": "b"}]
)
def test_malformed_reference_is_refused_with_its_place(folder: Path, reference: Mapping[str, object]) -> None:
    with pytest.raises(SecretRefused, match=r"config\.a\[0\]\.b"):
        resolver(folder).resolve({"a": [{"b": reference}]}, "ann")


@pytest.mark.parametrize("count", [65, 1])
def test_secrets_of_a_config_are_bounded(folder: Path, count: int) -> None:
    config: dict[str, object] = {}
    for number in range(max(2, count)):
        (folder / "ann" / f"k{number}").write_text("x" * (MOST_BYTES - 1 if count == 1 else 10))
        config[str(number)] = {"$secret": f"k{number}"}

    with pytest.raises(SecretRefused, match="more than"):
        resolver(folder).resolve(config, "ann")


# --- sealed values


def sealed(text: str, owner: str, key: str) -> dict[str, object]:
    return {"key": {"$sealed": seal(text, owner, public_key_of(key))}}


@pytest.fixture
def keys(tmp_path: Path) -> list[str]:
    """Three keys, of which the first two are in the file of the workers."""
    made = [new_private_key() for _ in range(3)]
    (tmp_path / "keys").write_text(f"# new\n{made[0]}\n\n{made[1]}  # old\n")
    return made


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("owner", ["ann", "*"])
def test_value_sealed_for_one_of_the_keys_is_opened(tmp_path: Path, keys: list[str], number: int, owner: str) -> None:
    found = resolver(key_file=tmp_path / "keys").resolve(sealed("pläin\n", owner, keys[number]), "ann")

    assert (found.config["key"], found.values) == ("pläin", ("pläin",))


@pytest.mark.parametrize("owner", ["bob", ""])
def test_sealed_value_of_another_owner_is_refused(tmp_path: Path, keys: list[str], owner: str) -> None:
    with pytest.raises(SecretRefused, match="another owner"):
        resolver(key_file=tmp_path / "keys").resolve(sealed("plain", "ann", keys[0]), owner)


def test_value_sealed_for_an_unknown_key_or_changed_is_refused(tmp_path: Path, keys: list[str]) -> None:
    config = sealed("plain", "ann", keys[0])
    reference: Any = config["key"]
    text = reference["$sealed"]
    changed = text[:-3] + ("A" if text[-3] != "A" else "B") + text[-2:]
    for other in (sealed("plain", "ann", keys[2]), {"key": {"$sealed": changed}}, {"key": {"$sealed": "v1.ü"}}):
        with pytest.raises(SecretRefused, match="cannot be opened"):
            resolver(key_file=tmp_path / "keys").resolve(other, "ann")


def test_sealing_hides_the_value_and_differs_each_time(keys: list[str]) -> None:
    texts = {seal("plain", "ann", public_key_of(keys[0])) for _ in range(2)}

    assert len(texts) == 2
    assert not any("plain" in text for text in texts)


def test_missing_key_file_is_refused_and_an_unusable_one_is_retried(tmp_path: Path, keys: list[str]) -> None:
    config = sealed("plain", "ann", keys[0])
    (tmp_path / "bad").write_text("the0-private-1-nonsense")

    with pytest.raises(SecretRefused, match="SECRETS_KEY_FILE"):
        resolver().resolve(config, "ann")
    for name in ("none", "bad"):
        with pytest.raises(SecretUnavailable, match="SECRETS_KEY_FILE") as unavailable:
            resolver(key_file=tmp_path / name).resolve(config, "ann")
        assert "nonsense" not in str(unavailable.value)

"""Reading entities out of documents of any age."""

import json

import pytest

from libs.core.store.entities import CodeLocation, Entity, is_enabled


@pytest.mark.parametrize(
    ("config", "enabled"),
    [
        ({}, True),
        ({"enabled": None}, True),
        ({"enabled": True}, True),
        ({"enabled": 1}, True),
        ({"enabled": "true"}, True),
        ({"enabled": "no"}, True),
        ({"enabled": {}}, True),
        ({"enabled": False}, False),
        ({"enabled": 0}, False),
        ({"enabled": "false"}, False),
        ({"enabled": "0"}, False),
    ],
)
def test_only_the_contracts_values_disable(config: dict[str, object], enabled: bool) -> None:
    assert is_enabled(config) is enabled


@pytest.mark.parametrize(
    ("above", "in_config", "enabled"),
    [
        (False, True, False),
        (True, False, True),
        ("0", "true", False),
        (0, 1, False),
        (None, False, False),
        (None, True, True),
    ],
)
def test_top_level_enabled_takes_precedence_over_config(above: object, in_config: object, enabled: bool) -> None:
    assert Entity.of({"id": "x", "enabled": above, "config": {"enabled": in_config}}).enabled is enabled
    assert Entity.of({"id": "x", "enabled": above, "config": {}}).enabled is (enabled or above is None)


def test_integral_doubles_of_config_are_read_as_integers() -> None:
    config = {"n": 5.0, "x": 0.5, "list": [1.0, {"deep": -3.0}], "object": {"deeper": [[7.0]]}, "text": "5.0"}
    entity = Entity.of({"id": "x", "config": config})

    assert json.dumps(entity.config) == (
        '{"n": 5, "x": 0.5, "list": [1, {"deep": -3}], "object": {"deeper": [[7]]}, "text": "5.0"}'
    )


def test_a_document_with_lower_cased_fields_is_read_like_any_other() -> None:
    bot = {"runtime": "python3.11", "entrypoints": {"backtest": "main.py"}}
    custom = {"config": bot, "createdat": "a", "updatedat": "b", "filepath": "key", "version": "1"}
    entity = Entity.of({"id": "x", "segment_id": 1, "config": {}, "custom": custom})

    assert (entity.code, entity.bot, entity.version) == (CodeLocation(None, "key"), bot, "1")
    assert (entity.custom["createdAt"], entity.custom["updatedAt"]) == ("a", "b")


@pytest.mark.parametrize(
    ("custom", "code"),
    [
        ({"filePath": "a/b"}, CodeLocation(None, "a/b")),
        ({"gcsPath": "gs://bucket/a/b"}, CodeLocation("bucket", "a/b")),
        ({"filePath": "a", "gcsPath": "gs://bucket/b"}, CodeLocation(None, "a")),
        ({"filePath": "", "gcsPath": "gs://bucket/b"}, CodeLocation("bucket", "b")),
        ({"filePath": "a", "sha256": "ABC"}, CodeLocation(None, "a", "abc")),
        ({"gcsPath": "gs://bucket/b", "SHA256": "abc"}, CodeLocation("bucket", "b", "abc")),
        ({"filePath": "a", "sha256": ""}, CodeLocation(None, "a")),
        ({"gcsPath": "gs://bucket"}, None),
        ({}, None),
    ],
)
def test_code_location_prefers_file_path_over_older_path(custom: dict[str, object], code: CodeLocation | None) -> None:
    assert Entity.of({"id": "x", "custom": custom}).code == code


def test_a_document_with_nothing_but_an_id_is_an_entity() -> None:
    entity = Entity.of({"id": "x", "config": None})
    assert (entity.segment_id, entity.revision, entity.enabled, entity.runtime, entity.version) == (0, 0, True, "", "")
    assert (entity.entrypoints, entity.code, entity.status, entity.trace) == ({}, None, {}, {})


def test_the_version_of_the_code_is_the_customs_and_else_the_bots() -> None:
    assert Entity.of({"id": "x", "custom": {"version": "2", "config": {"version": "1"}}}).version == "2"
    assert Entity.of({"id": "x", "custom": {"config": {"version": "1"}}}).version == "1"

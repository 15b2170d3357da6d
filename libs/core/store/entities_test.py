"""Reading entities out of documents of any age."""

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
    ("custom", "code"),
    [
        ({"filePath": "a/b"}, CodeLocation(None, "a/b")),
        ({"gcsPath": "gs://bucket/a/b"}, CodeLocation("bucket", "a/b")),
        ({"filePath": "a", "gcsPath": "gs://bucket/b"}, CodeLocation(None, "a")),
        ({"filePath": "", "gcsPath": "gs://bucket/b"}, CodeLocation("bucket", "b")),
        ({"gcsPath": "gs://bucket"}, None),
        ({}, None),
    ],
)
def test_the_code_is_where_the_file_path_says_and_else_the_older_path(
    custom: dict[str, object], code: CodeLocation | None
) -> None:
    assert Entity.of({"id": "x", "custom": custom}).code == code


def test_a_document_with_nothing_but_an_id_is_an_entity() -> None:
    entity = Entity.of({"id": "x", "config": None})
    assert (entity.segment_id, entity.revision, entity.enabled, entity.runtime, entity.version) == (0, 0, True, "", "")
    assert (entity.entrypoints, entity.code, entity.status, entity.trace) == ({}, None, {}, {})


def test_the_version_of_the_code_is_the_customs_and_else_the_bots() -> None:
    assert Entity.of({"id": "x", "custom": {"version": "2", "config": {"version": "1"}}}).version == "2"
    assert Entity.of({"id": "x", "custom": {"config": {"version": "1"}}}).version == "1"

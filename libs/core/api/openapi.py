"""The OpenAPI description of a process's ``/api/v1``, from its operations and the types of their answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from libs.core.api.errors import ErrorAnswer
from libs.core.api.operations import Operation, path_of
from libs.core.api.parameters import MAX_TEXT
from libs.core.api.paths import DESCRIPTION

_REFERENCE = "#/components/schemas/{model}"
_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "The token of the worker, stored beside its address in the collection `processes` of its database.",
}
_REASONS = {
    400: "A parameter is invalid; the message names it.",
    401: "The token is missing or wrong.",
    404: "Not found.",
    503: "Not available now: the process is starting, does not lead, or MongoDB is unavailable; see the message.",
}


def description_of(title: str, version: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the description in OpenAPI 3.1."""
    schemas: dict[str, Any] = {}
    error = _schema_of(ErrorAnswer, schemas)
    # Fields without a value are omitted.
    schemas["ErrorAnswer"]["required"] = ["error"]
    paths: dict[str, Any] = {
        DESCRIPTION: {
            "get": {
                "operationId": "describe",
                "summary": "This description.",
                "responses": {"200": _response("The description.", {"type": "object"})},
            }
        }
    }
    for operation in operations:
        paths[path_of(operation)] = {"get": _operation(operation, error, schemas)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version,
            "description": "Read-only. Times are RFC 3339 in UTC; ids in paths are percent-encoded, "
            "slashes too (`%2F`). No answer contains an entity's config.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(schemas.items())), "securitySchemes": {"token": _TOKEN}},
    }


def _operation(operation: Operation, error: Mapping[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    if operation.result is None:
        success = {
            "description": "The output as printed: arbitrary bytes, mostly UTF-8.",
            "headers": {
                "Log-Source": {
                    "description": "`worker`: live output of the worker that runs it; `storage`: up to half a "
                    "minute late.",
                    "schema": {"type": "string", "enum": ["worker", "storage"]},
                }
            },
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    else:
        success = _response("The answer.", _schema_of(operation.result, schemas))
    failures = {400, *operation.errors}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": {"200": success, **{str(status): _response(_REASONS[status], error) for status in failures}},
    }
    if operation.guarded:
        described["security"] = [{"token": []}]
    return described


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": parameter.name, "in": "query", "description": parameter.description, "schema": dict(parameter.schema)}
        for parameter in operation.parameters
    ]
    if "{id}" in operation.path:
        schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
        found.insert(0, {"name": "id", "in": "path", "required": True, "description": "Its id.", "schema": schema})
    return found


def _schema_of(answer: type, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a reference to the schema of *answer*, and add that schema and its parts to *schemas*."""
    schema = TypeAdapter(answer).json_schema(mode="serialization", ref_template=_REFERENCE)
    for name, part in {**schema.pop("$defs", {}), answer.__name__: schema}.items():
        if part.get("type") == "object" and "properties" in part:
            part["additionalProperties"] = False
            part["required"] = sorted(part["properties"])
        schemas[name] = part
    return {"$ref": _REFERENCE.format(model=answer.__name__)}


def _response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": dict(schema)}}}

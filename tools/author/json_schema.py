"""Compare JSON with a JSON Schema. Messages name fields and limits, never values, which may be keys of an account."""

import difflib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry  # comes with jsonschema  # pants: no-infer-dep
from referencing.exceptions import Unresolvable  # pants: no-infer-dep

from libs.core.schema_parameters import Schema
from libs.core.secrets.references import has_references

_TEXTS: Mapping[str, str] = {
    "type": "must be of type {}",
    "enum": "must be one of {}",
    "const": "must be {}",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be greater than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "minProperties": "must have at least {} fields",
    "maxProperties": "must have at most {} fields",
    "pattern": "must match the pattern {}",
}
_CHOICES = ("anyOf", "oneOf")
_MOST_TEXT = 200


class SchemaInvalid(Exception):
    """The schema is no JSON Schema, or refers to one that is not in it; the message says where."""


@dataclass(frozen=True)
class Violation:
    """One place that does not match: the *path* of a field, empty for the whole, and the reason."""

    path: str
    reason: str


def violations(value: object, schema: Schema) -> list[Violation]:
    """Return where *value* does not match *schema*. A reference to a secret matches everything.

    Nothing is fetched: a schema may refer only to its own parts.

    Raises:
        SchemaInvalid: as described there.
    """
    try:
        validator = _validator(json.dumps(schema))
        errors = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.path)))
    except (Unresolvable, RecursionError) as error:
        raise SchemaInvalid(f"a $ref cannot be resolved in it: {str(error)[:_MOST_TEXT]}") from error
    found = [Violation(_path(error.absolute_path), reason) for error in errors for reason in _reasons(error)]
    return list(dict.fromkeys(found))


@lru_cache(8)
def _validator(text: str) -> Any:
    """Return the validator of a schema, whose own check takes far longer than that of a value."""
    schema = json.loads(text)
    with warnings.catch_warnings():
        # An unknown $schema counts as the default.
        warnings.simplefilter("ignore")
        known = validators.validator_for(schema, default=Draft202012Validator)
    try:
        known.check_schema(schema)
    except SchemaError as error:
        raise SchemaInvalid(f"{_path(error.path) or 'it'} is no JSON Schema: {error.message[:_MOST_TEXT]}") from error
    checks = {name: _unless_secret(check) for name, check in known.VALIDATORS.items()}
    return validators.extend(known, checks)(schema, registry=Registry())  # type: ignore[no-untyped-call]


def _unless_secret(check: Callable[..., Any]) -> Callable[..., Iterator[ValidationError]]:
    def checked(validator: Any, limit: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        # Each keyword checks the value itself, so that only the reference is excepted, not what contains it.
        if not _is_secret(instance):
            yield from check(validator, limit, instance, schema) or ()

    return checked


def _is_secret(value: object) -> bool:
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)).startswith("$") and has_references(value)


def _reasons(error: ValidationError) -> Iterable[str]:
    keyword: Any = error.validator
    limit: Any = error.validator_value
    instance: Any = error.instance
    if keyword is None:
        # The schema is `false`.
        return ["is not allowed"]
    if keyword in _TEXTS:
        return [_TEXTS[keyword].format(_short(limit))]
    if keyword == "required" and isinstance(instance, dict):
        return [f"lacks {name!r}" for name in limit if name not in instance]
    if keyword == "additionalProperties" and isinstance(instance, dict) and isinstance(error.schema, Mapping):
        known = list(error.schema.get("properties", {}))
        return [f"has the unknown field {name!r}{_guess(name, known)}" for name in instance if name not in known]
    if keyword in _CHOICES and error.context:
        choices = {f"{_path(inner.path)} {reason}".strip() for inner in error.context for reason in _reasons(inner)}
        return [f"matches none of the choices: {', or '.join(sorted(choices))}"[:_MOST_TEXT]]
    return [f"does not match {keyword!r}: {_short(limit)}"]


def _guess(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f" (meant {close[0]!r}?)" if close else ""


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else value
    text = text if isinstance(text, str) else json.dumps(text, default=str)
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"


def _path(parts: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")

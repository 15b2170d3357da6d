"""Read groups of settings from flags and environment, and report all errors at once.

A flag overrides the environment, the environment overrides the default; an empty variable counts as unset. Groups are
read once, in a process's main; each component gets its own group. A group that is constructed directly
(``LeaseSettings(life_seconds=2)``) reads nothing from outside.

Types, bounds and checks are pydantic's, and so is the order of sources. The rest is not in pydantic-settings: variables
and defaults that differ by service, problems that name the variable or flag a value came from, with the allowed values
and the remedy, and the same texts as rows for ``--help`` and the documents.
"""

import dataclasses
import os
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import annotated_types
from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from libs.core.errors import UserError
from libs.core.process.service import ServiceDefinition

Seconds = Annotated[float, Field(allow_inf_nan=False)]
"""A duration; the value is a plain number of seconds."""


@dataclass(frozen=True)
class Named:
    """The source of a field's value and its description; part of the field's annotation.

    *variable*, *aliases* and *default_of* may be functions of the service, where each service has its own.
    """

    variable: str | Callable[[ServiceDefinition], str]
    aliases: tuple[str, ...] | Callable[[ServiceDefinition], tuple[str, ...]] = ()
    """Older names, read in this order when *variable* is not set."""
    flag: str | None = None
    file: str = ""
    """The variable that names a file with the value, read when *variable* is not set."""
    file_may_be_missing: bool = False
    """Whether the setting is unset if its folder lacks the file, as a mounted Secret lacks an optional key."""
    unit: str = ""
    allowed: str = ""
    """The valid values as text; empty if the type and its bounds suffice."""
    default_of: Callable[[ServiceDefinition], Any] | None = None
    default_text: str = ""
    """The default as text, if it is computed in each process."""

    def variable_for(self, service: ServiceDefinition | None) -> str:
        """Return the variable's name in *service*."""
        return self.variable if isinstance(self.variable, str) else self.variable(_given(service))

    def aliases_for(self, service: ServiceDefinition | None) -> tuple[str, ...]:
        """Return the variable's older names in *service*."""
        return self.aliases if isinstance(self.aliases, tuple) else self.aliases(_given(service))


class Group(BaseSettings):
    """A group of settings; every field is annotated with :class:`Named` and has a description."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", str_strip_whitespace=True, hide_input_in_errors=True, ser_json_inf_nan="constants"
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: object, **__: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the constructor's arguments."""
        return (init_settings,)


class SettingsError(UserError):
    """One or more settings are invalid; *problems* has a line for each, with the setting and the remedy."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(f"{count} setting{'s are' if count > 1 else ' is'} wrong:{listed}")


@dataclass(frozen=True)
class SettingRow:
    """One setting for ``--help`` and the documents."""

    name: str
    aliases: tuple[str, ...]
    flag: str | None
    default: str
    allowed: str
    meaning: str


T = TypeVar("T", bound=Group)
D = TypeVar("D")


class FlagsThenEnvironment(PydanticBaseSettingsSource):
    """Finds the raw value of each field of a group, and records the name under which it was found.

    Args:
        flags: by the name of the flag without dashes (``mongo_uri``); None means that the flag was not given.
    """

    def __init__(
        self,
        group: type[Group],
        flags: Mapping[str, object],
        environ: Mapping[str, str],
        service: ServiceDefinition | None,
    ) -> None:
        super().__init__(group)
        self._flags = flags
        self._environ = environ
        self._service = service
        self.found_as: dict[str, str] = {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the value (None when unset), the field's name, and False: no value is JSON."""
        named = named_of(field)
        if named.flag is not None:
            value = self._flags.get(named.flag.lstrip("-").replace("-", "_"))
            if value is not None:
                self.found_as[field_name] = named.flag
                return value, field_name, False
        for variable in (named.variable_for(self._service), *named.aliases_for(self._service)):
            text = self._environ.get(variable, "").strip()
            if text:
                self.found_as[field_name] = variable
                return text.lower() if _choices(field) else text, field_name, False
        if named.file and (path := self._environ.get(named.file, "").strip()):
            if named.file_may_be_missing and Path(path).parent.is_dir() and not Path(path).exists():
                return None, field_name, False
            self.found_as[field_name] = named.file
            return _content(named.file, path), field_name, False
        if named.default_of is not None:
            return named.default_of(_given(self._service)), field_name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values of all set fields, by field name.

        The file of a value that is set itself counts as unset, so that a replaced one is not used.
        """
        fields = self.settings_cls.model_fields
        values = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        files = {name: named_of(field).file for name, field in fields.items()}
        unused = {files[name] for name, found_as in self.found_as.items() if found_as != files[name]}
        return {
            name: value for name, value in values.items() if value is not None and self.found_as.get(name) not in unused
        }


def load(
    group: type[T],
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    service: ServiceDefinition | None = None,
) -> T:
    """Read one group; *environ* None is the process's own environment.

    Args:
        service: required for groups in which a name or a default depends on the service.

    Raises:
        SettingsError: with all errors in the group.
    """
    source = FlagsThenEnvironment(group, flags or {}, os.environ if environ is None else environ, service)
    values = source()
    try:
        return group(**values)
    except ValidationError as error:
        raise SettingsError(_problem(source, values, service, one) for one in error.errors()) from None


def load_all(
    wanted: type[D],
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    service: ServiceDefinition | None = None,
) -> D:
    """Read every group of the dataclass *wanted*, whose fields are all groups.

    Raises:
        SettingsError: with all errors in all groups.
    """
    groups: dict[str, Group] = {}
    problems: list[str] = []
    for name, group in groups_of(wanted).items():
        try:
            groups[name] = load(group, flags, environ, service)
        except SettingsError as error:
            problems.extend(error.problems)
    if problems:
        raise SettingsError(problems)
    return wanted(**groups)


def groups_of(wanted: type[Any]) -> dict[str, type[Group]]:
    """Return the groups of a dataclass of groups, by field name."""
    hints = get_type_hints(wanted)
    return {field.name: hints[field.name] for field in dataclasses.fields(wanted)}


def rows(groups: Iterable[type[Group]], service: ServiceDefinition | None = None) -> list[SettingRow]:
    """Return all settings of *groups* for display, each variable once."""
    found: dict[str, SettingRow] = {}
    for group in groups:
        for field in group.model_fields.values():
            named = named_of(field)
            name = named.variable_for(service)
            found.setdefault(
                name,
                SettingRow(
                    name=name,
                    aliases=named.aliases_for(service),
                    flag=named.flag,
                    default=_default(field, service),
                    allowed=_allowed(field),
                    meaning=field.description or "",
                ),
            )
    return list(found.values())


def named_of(field: FieldInfo) -> Named:
    """Return the external name of the field."""
    return next(item for item in field.metadata if isinstance(item, Named))


def _content(variable: str, path: str) -> str:
    """Return the content of a file that a setting names, without the line break at its end."""
    try:
        text = Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError([f"{variable}={path!r} cannot be read ({reason}); correct the file, or unset it"]) from None
    if not text:
        raise SettingsError([f"{variable}={path!r} is empty; write the value into the file, or unset it"])
    return text


def _problem(
    source: FlagsThenEnvironment, values: Mapping[str, Any], service: ServiceDefinition | None, error: Any
) -> str:
    location = error["loc"]
    if not location:
        # A check across fields has its own message.
        return str(error["msg"]).removeprefix("Value error, ")
    field_name = location[0]
    field = source.settings_cls.model_fields[field_name]
    name = source.found_as.get(field_name) or named_of(field).variable_for(service)
    if error["type"] == "missing":
        aliases = named_of(field).aliases_for(service)
        older = f" (older name: {', '.join(aliases)})" if aliases else ""
        return f"{name} is not set: give the {field.description}{older}"
    value = "(secret)" if _is_secret(field) else repr(str(values[field_name]))
    default = _default(field, service)
    remedy = "correct it" if default == "required" else f"correct it, or leave it out (default: {default})"
    return f"{name}={value} must be {_allowed(field)}; {remedy}; meaning: {field.description}"


def _allowed(field: FieldInfo) -> str:
    named = named_of(field)
    if named.allowed:
        return named.allowed
    choices = _choices(field)
    if choices:
        return "one of " + ", ".join(choices)
    kind = _plain_type(field)
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        noun = "a whole number" if kind is int else "a number"
        unit = f" of {named.unit}" if named.unit else ""
        return f"{noun}{unit}{_bounds(field)}"
    least = next((one.min_length for one in field.metadata if isinstance(one, annotated_types.MinLen)), 0)
    return f"a string of at least {least} characters" if least > 1 else "a string"


def _bounds(field: FieldInfo) -> str:
    low = high = ""
    for bound in field.metadata:
        if isinstance(bound, annotated_types.Ge):
            low = f" from {bound.ge}"
        elif isinstance(bound, annotated_types.Gt):
            low = f" above {bound.gt}"
        elif isinstance(bound, annotated_types.Le):
            high = f" to {bound.le}" if low else f" up to {bound.le}"
    return low + high


def _default(field: FieldInfo, service: ServiceDefinition | None) -> str:
    named = named_of(field)
    if named.default_text:
        return named.default_text
    if named.default_of is not None:
        return str(named.default_of(_given(service)))
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "unset"
    if isinstance(field.default, SecretStr):
        return field.default.get_secret_value()
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _choices(field: FieldInfo) -> tuple[str, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def _plain_type(field: FieldInfo) -> object:
    """Return the field's type, without the None of an optional one and without annotations."""
    kind: Any = field.annotation
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _is_secret(field: FieldInfo) -> bool:
    return _plain_type(field) is SecretStr or not field.repr


def _given(service: ServiceDefinition | None) -> ServiceDefinition:
    if service is None:
        raise ValueError("this setting depends on the service: pass service=")
    return service

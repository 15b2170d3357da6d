"""Keep a config without its literal secrets, and complete it again from a later config. Pure.

References to secrets are no secrets, and stay. A value that looks like a secret is replaced by None, and its path is
kept: a restored config has the present value, so that a history neither stores old keys nor brings revoked ones back.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from libs.core.errors import UserError
from libs.core.secrets.config_masks import is_secret_name, is_secret_text
from libs.core.secrets.references import Kind

Path = tuple[str | int, ...]
"""The place of a value: names in objects and indexes in lists."""


class SecretsMissing(UserError):
    """The present config has no values for secrets that were not stored."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        names = ", ".join(".".join(str(part) for part in path) for path in paths)
        super().__init__(
            f"the history stores no secrets, and the present config has no value for {names}; set it with "
            '`config set` first, or refer to a stored secret with {"$secret": NAME}'
        )


def withhold(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[Path]]:
    """Return *config* with each literal secret replaced by None, and the paths of these."""
    paths: list[Path] = []
    return {name: _without(value, (name,), is_secret_name(name), paths) for name, value in config.items()}, paths


def literal_secrets(config: Mapping[str, Any]) -> list[Any]:
    """Return the literal secrets of *config*: those that :func:`withhold` replaces."""
    return [value for path in withhold(config)[1] for value in _at(config, path)]


def completed(stored: Mapping[str, Any], paths: Sequence[Path], present: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that :func:`withhold` returned, with the secrets of the *present* config.

    Raises:
        SecretsMissing: *present* has none at some of *paths*. A list must be the same except for its secrets: by its
            position alone, an account could get the key of another one.
    """
    config: dict[str, Any] = _copied(stored)
    missing = []
    without, _ = withhold(present)
    for path in paths:
        found = next(_at(present, path), None)
        if found is None or not _same_lists(stored, without, path):
            missing.append(path)
            continue
        _put(config, path, found)
    if missing:
        raise SecretsMissing(missing)
    return config


def _without(value: Any, path: Path, is_secret: bool, paths: list[Path]) -> Any:
    if isinstance(value, Mapping):
        if any(kind in value for kind in Kind):
            return _copied(value)
        return {
            name: _without(inner, (*path, str(name)), is_secret or is_secret_name(str(name)), paths)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without(inner, (*path, index), is_secret, paths) for index, inner in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if is_secret or (isinstance(value, str) and is_secret_text(value)):
        paths.append(path)
        return None
    return value


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copied(inner) for name, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list | tuple) else value


def _at(value: Any, path: Path) -> Iterator[Any]:
    """Yield the value at *path*, if there is one."""
    for part in path:
        if isinstance(part, int):
            if not isinstance(value, list | tuple) or part >= len(value):
                return
        elif not isinstance(value, Mapping) or part not in value:
            return
        value = value[part]
    yield value


def _same_lists(stored: Mapping[str, Any], present: Mapping[str, Any], path: Path) -> bool:
    """Whether the outermost list on *path*, if any, is the same in both, which have no secrets."""
    first = next((index for index, part in enumerate(path) if isinstance(part, int)), None)
    if first is None:
        return True
    return next(_at(stored, path[:first]), None) == next(_at(present, path[:first]), None)


def _put(config: Any, path: Path, value: Any) -> None:
    *parents, last = path
    for part in parents:
        config = config[part]
    config[last] = _copied(value)

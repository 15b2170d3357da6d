"""Replace the references in a config by the values of secrets. Blocks: call it in a thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from libs.core.config.secret_settings import SecretSettings
from libs.core.observability.log import get_logger
from libs.core.secrets.errors import KeyInvalid, SecretRefused, SecretUnavailable
from libs.core.secrets.providers import Allowed, EnvironmentProvider, FileProvider, SecretProvider, secret_variables
from libs.core.secrets.references import Kind, Reference, has_references, replaced
from libs.core.secrets.sealing import ANY_OWNER, MOST_BYTES, keys_in, unseal

log = get_logger(__name__)

# Each piece of the output is compared with each of them.
_MOST_SECRETS = 64


@dataclass(frozen=True)
class SecretSources:
    """Where secrets come from, by the operator's settings.

    Attributes:
        folder: of secret files; None for none.
        allowed: the owners of each shared secret.
        key_file: the private keys for sealed values; None for none.
        environment: the variables that may contain secrets.
    """

    folder: Path | None = None
    allowed: Allowed = field(default_factory=dict)
    key_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, settings: SecretSettings, environment: Mapping[str, str]) -> Self:
        """Return the sources of *settings*. Only the secrets in *environment* are kept."""
        return cls(settings.folder, settings.allowed, settings.key_file, secret_variables(environment))

    @property
    def providers(self) -> Sequence[SecretProvider]:
        """The providers, in the order in which they are asked."""
        providers: list[SecretProvider] = []
        if self.folder is not None:
            providers.append(FileProvider(self.folder, self.allowed))
        if self.allowed:
            providers.append(EnvironmentProvider(self.environment, self.allowed))
        return providers


@dataclass(frozen=True)
class Resolved:
    """A config with its values, and these values, to be masked in the output of the bot."""

    config: Mapping[str, object] = field(repr=False)
    values: tuple[str, ...] = field(default=(), repr=False)


class SecretResolver:
    """Resolves references with *providers*, the first of which that has a value counts."""

    def __init__(self, providers: Sequence[SecretProvider] = (), key_file: Path | None = None) -> None:
        self._providers = providers
        self._key_file = key_file

    def resolve(self, config: Mapping[str, object], owner: str) -> Resolved:
        """Return *config* with the values for a bot of *owner*. Files are read again at each call.

        Raises:
            SecretRefused: the bot's owner, or the operator, must correct it.
            SecretUnavailable: retry later.
        """
        if not has_references(config):
            return Resolved(config)
        values: dict[tuple[Kind, str], str] = {}

        def value_of(reference: Reference) -> str:
            key = (reference.kind, reference.text)
            if key not in values:
                if len(values) >= _MOST_SECRETS:
                    raise SecretRefused(reference.where, f"the config has more than {_MOST_SECRETS} secrets")
                values[key] = self._value(reference, owner)
                if sum(map(len, values.values())) > MOST_BYTES:
                    raise SecretRefused(reference.where, f"the config has more than {MOST_BYTES} bytes of secrets")
            return values[key]

        resolved = {name: replaced(value, value_of, f"config.{name}") for name, value in config.items()}
        return Resolved(resolved, tuple(dict.fromkeys(values.values())))

    def _value(self, reference: Reference, owner: str) -> str:
        if reference.kind is Kind.SEALED:
            return self._unsealed(reference, owner)
        if not self._providers:
            raise SecretRefused(
                reference.where,
                f"secret {reference.text!r} cannot be resolved: this worker has no provider of secrets; "
                "the operator must set SECRETS_DIR or SECRETS_ALLOW",
            )
        for provider in self._providers:
            if (found := provider.value(owner, reference.text)) is not None:
                return _text(found, reference)
        raise SecretRefused(
            reference.where,
            f"secret {reference.text!r} does not exist, or bots of owner {owner!r} may not use it",
        )

    def _unsealed(self, reference: Reference, owner: str) -> str:
        opened = unseal(reference.text, self._keys(reference))
        if opened is None:
            raise SecretRefused(
                reference.where,
                "this sealed value cannot be opened with the private keys of this worker; seal it again",
            )
        sealed_for, value = opened
        if sealed_for != ANY_OWNER and (sealed_for != owner or not owner):
            raise SecretRefused(reference.where, f"this value was sealed for another owner than {owner!r}")
        return _text(value.encode("utf-8", "surrogatepass"), reference)

    def _keys(self, reference: Reference) -> list[str]:
        if self._key_file is None:
            raise SecretRefused(
                reference.where,
                "a sealed value cannot be opened: this worker has no private key; the operator must set "
                "SECRETS_KEY_FILE",
            )
        try:
            return keys_in(self._key_file.read_text(errors="replace"))
        except OSError as error:
            raise SecretUnavailable(f"SECRETS_KEY_FILE {self._key_file}", error.strerror or str(error)) from error
        except KeyInvalid as error:
            raise SecretUnavailable(f"SECRETS_KEY_FILE {self._key_file}", str(error)) from error


def _text(value: bytes, reference: Reference) -> str:
    """Return a value as text, without the one newline that editors and `echo` append."""
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise SecretRefused(reference.where, "the secret is empty")
    if len(value) > MOST_BYTES:
        raise SecretRefused(reference.where, f"the secret is longer than {MOST_BYTES} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise SecretRefused(reference.where, "the secret is not UTF-8 text") from None

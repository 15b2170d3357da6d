"""The maskers of containers, from the secrets that their configs contain."""

from collections.abc import Sequence

from libs.core.aio.threads import Threads
from libs.core.errors import RuntimeFault
from libs.core.observability.log import get_logger
from libs.core.secrets.resolver import SecretResolver
from libs.docker_runner.containers.container import ManagedContainer
from libs.docker_runner.containers.run_folders import References, RunFolders
from libs.docker_runner.containers.secret_label import parsed
from libs.docker_runner.logs.masking import Masker

log = get_logger(__name__)

_MOST = 10_000


class SecretMasks:
    """Returns the masker of each container, also of one that another worker of this engine started.

    The values of a running bot are beside its spec. After its end they are only in the memory of workers that read its
    output, and a worker with other folders never sees them: it resolves the references again, and hides the output if
    it cannot, or if the values have changed since the start.
    """

    def __init__(self, folders: RunFolders, resolver: SecretResolver, threads: Threads) -> None:
        self._folders = folders
        self._resolver = resolver
        self._threads = threads
        self._known: dict[str, Masker | None] = {}

    async def of(self, container: ManagedContainer) -> Masker | None:
        """Return the masker of *container*'s output; None when its config has no secrets."""
        if container.token not in self._known:
            self._keep(container.token, await self._threads.run(self._read, container))
        return self._known[container.token]

    def remember(self, token: str, values: Sequence[str]) -> None:
        """Note the values of a container that is started here, before its spec may be removed again."""
        self._keep(token, Masker(values) if values else None)

    def forget(self, container: ManagedContainer) -> None:
        """Drop a removed container. May be repeated."""
        self._known.pop(container.token, None)

    def _keep(self, token: str, masker: Masker | None) -> None:
        self._known[token] = masker
        if len(self._known) > _MOST:
            self._known.pop(next(iter(self._known)))

    def _read(self, container: ManagedContainer) -> Masker | None:
        label = parsed(container.secrets)
        references = self._folders.references(container)
        if references is None and label is None:
            return None
        values = self._folders.secret_values(container)
        if values is not None:
            return Masker(values)
        if references is None and label is not None and label.references is not None:
            references = References({"references": label.references}, label.owner)
        if references is None:
            return _hidden(container, "its label does not name them, and its folder is not here")
        try:
            resolved = self._resolver.resolve(references.config, references.owner).values
        except RuntimeFault as error:
            return _hidden(container, str(error))
        if label is not None and not label.verifies(resolved, container.token):
            return _hidden(container, "their values have changed since its start")
        return Masker(resolved)


def _hidden(container: ManagedContainer, reason: str) -> Masker:
    log.warning("output is hidden: its secrets are not known", container=container.name, reason=reason)
    return Masker((), everything=True)

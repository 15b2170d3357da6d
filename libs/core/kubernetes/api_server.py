"""Calls to the API server of a Kubernetes cluster: the only module that uses the official SDK.

The SDK finds the server, logs in (tokens, certificates, commands of a KUBECONFIG file), renews tokens and uses proxies.
It is imported when there is a cluster, since it adds 12 MB to a process. Calls are untyped: its models and typed calls
would add more and return the same fields. Its calls block, so they run in two threads and have limits.
"""

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from libs.core.kubernetes.errors import ClusterForbids, ClusterRejects, ClusterUnavailable, NoCluster
from libs.core.kubernetes.streaming import lines_of

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_THREADS = 2
_LOGIN_SECONDS = 30.0
_MERGE_PATCH = "application/merge-patch+json"

_IMPORTING = threading.Lock()

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the API server returned. A document that is not a JSON object comes with an error status only."""

    status: int
    document: object


class ApiServer:
    """The API server selected by *environ*: that of the pod's cluster, else the current context of KUBECONFIG.

    Args:
        timeout_seconds: limit of one call; a log-in before it has 30 seconds of its own.
        service_account: the folder of the pod's token and certificate.
    """

    def __init__(
        self, environ: Mapping[str, str], timeout_seconds: float, service_account: Path = SERVICE_ACCOUNT
    ) -> None:
        self._environ = environ
        self._timeout_seconds = timeout_seconds
        self._service_account = service_account
        self._client: Any = None
        self._free_threads = asyncio.Semaphore(_THREADS)

    def close(self) -> None:
        """Close the connections and the login. A later call logs in again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    async def call(
        self, method: str, path: str, body: Json | None = None, query: Mapping[str, str] | None = None
    ) -> Answer:
        """Make one call, with a new login if the server rejects the current one.

        Raises:
            NoCluster: *environ* selects no cluster, or an unusable one.
            ClusterForbids: the server rejects a new login too.
            ClusterUnavailable: no answer within the limit; the outcome is unknown.
            ClusterRejects: the answer is not JSON.
        """
        known = self._client is not None
        answer = await self._call(method, path, body, query)
        if answer.status == 401 and known:
            # The SDK reads the token of a service account once a minute, but a token file of KUBECONFIG never again.
            self.close()
            answer = await self._call(method, path, body, query)
        if answer.status == 401:
            self.close()
            raise ClusterForbids(
                f"the Kubernetes API rejects the token: {message_of(answer)}: check the service account, or "
                "the user in KUBECONFIG; a failing login command is logged"
            )
        return answer

    async def _call(self, method: str, path: str, body: Json | None, query: Mapping[str, str] | None) -> Answer:
        try:
            find_cluster(self._environ, self._service_account)
            if self._client is None:
                self._client = await self._in_thread(_LOGIN_SECONDS, "log-in", self._log_in)
            client = self._client
            # This renews an expired token, for instance by the command in KUBECONFIG.
            request = await self._in_thread(
                _LOGIN_SECONDS, "log-in", partial(_request, client, method, path, body, query or {})
            )
            return await self._in_thread(
                self._timeout_seconds, f"{method} {path}", partial(self._exchange, client, request)
            )
        except (NoCluster, ClusterUnavailable):
            # Certificates, address and token may all have changed.
            self.close()
            raise

    async def watch(
        self, path: str, query: Mapping[str, str], silence_seconds: float
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the objects of a watch until the server ends it.

        Args:
            silence_seconds: the longest time between two of them; bookmarks come each minute.

        Raises:
            ClusterError: as :meth:`call`; the status of a refused watch is in the message of ClusterUnavailable.
        """
        find_cluster(self._environ, self._service_account)
        if self._client is None:
            self._client = await self._in_thread(_LOGIN_SECONDS, "log-in", self._log_in)
        client = self._client
        request = await self._in_thread(
            _LOGIN_SECONDS, "log-in", partial(_request, client, "GET", path, None, {**query, "watch": "true"})
        )
        open_stream = partial(self._open_stream, client, request, silence_seconds)
        async with aclosing(lines_of(open_stream, client.configuration.host)) as lines:
            async for line in lines:
                try:
                    event = json.loads(line)
                except ValueError as error:
                    raise ClusterUnavailable(f"watch {path}: a line is not JSON") from error
                if isinstance(event, dict):
                    yield event

    def _open_stream(
        self, client: Any, request: tuple[str, str, dict[str, str], Json | None], silence_seconds: float
    ) -> Any:
        method, url, headers, body = request
        answer = client.call_api(method, url, headers, body, _request_timeout=(self._timeout_seconds, silence_seconds))
        response = answer.response
        if answer.status >= 300:
            text = response.read(4096).decode("utf-8", "replace")
            response.close()
            if answer.status == 401:
                self.close()
            raise ClusterUnavailable(f"{client.configuration.host} answers {answer.status} to a watch: {text}")
        return response

    def _log_in(self) -> Any:
        client: Any = _sdk().ApiClient(load_configuration(self._environ, self._service_account))
        client.user_agent = "the0-runtime"
        return client

    def _exchange(self, client: Any, request: tuple[str, str, dict[str, str], Json | None]) -> Answer:
        from urllib3.exceptions import HTTPError

        method, url, headers, body = request
        try:
            response = client.call_api(method, url, headers, body, _request_timeout=self._timeout_seconds)
            text = response.read()
        except (_sdk().ApiException, HTTPError, OSError) as error:
            detail = getattr(error, "reason", None) or error
            raise ClusterUnavailable(f"{client.configuration.host} does not answer: {detail}") from error
        try:
            document = json.loads(text)
        except ValueError as error:
            raise ClusterRejects(f"{method} {url}: the answer is not JSON (status {response.status})") from error
        if response.status < 300 and not isinstance(document, dict):
            raise ClusterRejects(f"{method} {url}: the answer is not a JSON object")
        return Answer(response.status, document)

    async def _in_thread(self, limit_seconds: float, what: str, function: Callable[[], T]) -> T:
        """Run *function* in one of the threads. It occupies its thread until it ends, even after the limit.

        The threads are daemons: a hanging login command must not prevent the process from exiting.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def settle(set_outcome: Callable[[], None]) -> None:
            self._free_threads.release()
            if not outcome.done():
                set_outcome()

        def run() -> None:
            set_outcome: Callable[[], None]
            try:
                set_outcome = partial(outcome.set_result, function())
            except BaseException as error:  # noqa: BLE001 - it is raised where the outcome is awaited
                set_outcome = partial(outcome.set_exception, error)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, set_outcome)

        try:
            async with asyncio.timeout(limit_seconds):
                await self._free_threads.acquire()
                threading.Thread(target=run, name="kubernetes", daemon=True).start()
                return await outcome
        except TimeoutError as error:
            raise ClusterUnavailable(
                f"the Kubernetes API does not answer: {what} took over {limit_seconds:g} s"
            ) from error


@dataclass(frozen=True)
class _Sdk:
    """The parts of the SDK that are used here."""

    ApiClient: Any
    ApiException: type[Exception]
    Configuration: Any
    InClusterConfigLoader: Any
    load_kube_config: Any


def _sdk() -> _Sdk:
    """Import the SDK, once.

    Its modules import each other on demand. If two threads do that at once, Python detects a deadlock among the locks
    of the modules, and `kubernetes.client` lacks its names until the process ends.
    """
    with _IMPORTING:
        from kubernetes.client import ApiClient, Configuration
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config import load_kube_config
        from kubernetes.config.incluster_config import InClusterConfigLoader

        return _Sdk(ApiClient, ApiException, Configuration, InClusterConfigLoader, load_kube_config)


def find_cluster(environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> None:
    """Return if *environ* selects a cluster.

    Raises:
        NoCluster: it does not; the message names what is missing.
    """
    if environ.get("KUBECONFIG") or (environ.get("KUBERNETES_SERVICE_HOST") and _has_token(service_account)):
        return
    if environ.get("KUBERNETES_SERVICE_HOST"):
        raise NoCluster(
            f"the pod has no service account token in {service_account}: "
            "set automountServiceAccountToken: true, or MIN_REPLICAS and MAX_REPLICAS do nothing"
        )
    raise NoCluster("not in a Kubernetes pod and KUBECONFIG is not set: the number of workers stays as it is")


def load_configuration(environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> Any:
    """Log in and return the SDK's configuration. Blocks.

    Raises:
        NoCluster: files of the pod or of KUBECONFIG cannot be used.
    """
    find_cluster(environ, service_account)
    configuration: Any = _sdk().Configuration()
    # The autoscaler retries by itself, and a hanging call would take its limit several times.
    configuration.retries = False
    if environ.get("KUBERNETES_SERVICE_HOST") and _has_token(service_account):
        source = f"the service account in {service_account}"
        load = partial(_load_service_account, environ, service_account, configuration)
    else:
        source = f"KUBECONFIG {environ['KUBECONFIG']}"
        load = partial(_load_file, environ["KUBECONFIG"], configuration)
    try:
        load()
        _check_certificates(configuration)
    except Exception as error:
        # The SDK raises errors of any type for a malformed file.
        raise NoCluster(f"{source} cannot be used: {type(error).__name__}: {error}") from error
    return configuration


def _has_token(service_account: Path) -> bool:
    return (service_account / "token").exists()


def _load_service_account(environ: Mapping[str, str], folder: Path, configuration: Any) -> None:
    with_port = {"KUBERNETES_SERVICE_PORT": "443"} | dict(environ)
    _sdk().InClusterConfigLoader(str(folder / "token"), str(folder / "ca.crt"), environ=with_port).load_and_set(
        configuration
    )


def _load_file(path: str, configuration: Any) -> None:
    _sdk().load_kube_config(path, client_configuration=configuration)


def _check_certificates(configuration: Any) -> None:
    """Raise if the certificate files are unusable. The SDK reads them only at the first call."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if configuration.ssl_ca_cert:
        tls.load_verify_locations(configuration.ssl_ca_cert)
    if configuration.cert_file:
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)


def _request(
    client: Any, method: str, path: str, body: Json | None, query: Mapping[str, str]
) -> tuple[str, str, dict[str, str], Json | None]:
    """Return method, address, headers and body of an authenticated request."""
    headers = {"Accept": "application/json"}
    if body is not None:
        headers["Content-Type"] = _MERGE_PATCH if method == "PATCH" else "application/json"
    try:
        _, url, headers, body, _ = client.param_serialize(
            method, path, header_params=headers, query_params=dict(query), body=body, auth_settings=["BearerToken"]
        )
    except Exception as error:
        # A missing token file, a failing login command.
        raise NoCluster(f"cannot log in to {client.configuration.host}: {type(error).__name__}: {error}") from error
    # A token from a file often ends with a newline, which a header must not contain.
    return method, url, {name: str(value).strip() for name, value in headers.items()}, body


def message_of(answer: Answer) -> str:
    """Return the server's error message."""
    return str(answer.document.get("message", "")) if isinstance(answer.document, dict) else repr(answer.document)

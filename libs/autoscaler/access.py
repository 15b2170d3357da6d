"""Where the API server is and how we prove who we are: the pod's service account, else a KUBECONFIG file.

Only what a process needs for a handful of calls: bearer tokens and client certificates. Log-in helpers that
kubeconfig files may name (`exec`, `auth-provider`) are refused with a message that says what to do instead.
"""

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.autoscaler.errors import NoCluster

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class ClusterAccess:
    """One API server.

    Attributes:
        server: base URL without a slash at the end.
        tls: None for plain http.
        fixed_token: a bearer token that does not change.
        token_file: a bearer token that the cluster replaces from time to time; read before each call.
    """

    server: str
    tls: ssl.SSLContext | None
    fixed_token: str | None = None
    token_file: Path | None = None

    def headers(self) -> dict[str, str]:
        """Headers that authenticate a call made now.

        Raises:
            NoCluster: the service account's token has gone.
        """
        token = self.fixed_token
        if self.token_file is not None:
            try:
                token = self.token_file.read_text().strip()
            except OSError as error:
                raise NoCluster(f"cannot read the service account's token {self.token_file}: {error}") from error
        return {"Authorization": f"Bearer {token}"} if token else {}


def find_access(environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> ClusterAccess:
    """The cluster that this pod runs in, else the current context of the file that KUBECONFIG names.

    Raises:
        NoCluster: neither is there, or it cannot be used.
    """
    host = environ.get("KUBERNETES_SERVICE_HOST")
    if host and (service_account / "token").exists():
        return _in_cluster(host, environ.get("KUBERNETES_SERVICE_PORT", "443"), service_account)
    if environ.get("KUBECONFIG"):
        return _from_file(Path(environ["KUBECONFIG"].split(":")[0]))
    if host:
        raise NoCluster(
            f"the pod has no service account token in {service_account}: "
            "set automountServiceAccountToken: true, or MIN_REPLICAS and MAX_REPLICAS do nothing"
        )
    raise NoCluster("not in a Kubernetes pod and KUBECONFIG is not set: the number of workers stays as it is")


def _in_cluster(host: str, port: str, service_account: Path) -> ClusterAccess:
    address = f"[{host}]" if ":" in host else host
    certificates = service_account / "ca.crt"
    try:
        tls = ssl.create_default_context(cafile=str(certificates) if certificates.exists() else None)
    except (OSError, ssl.SSLError) as error:
        raise NoCluster(f"the cluster's certificate {certificates} cannot be used: {error}") from error
    return ClusterAccess(f"https://{address}:{port}", tls, token_file=service_account / "token")


def _from_file(path: Path) -> ClusterAccess:
    # Not at the top: masters in a cluster never need it, and an idle one has little memory to spare.
    import yaml

    try:
        config = yaml.safe_load(path.read_text())
        context = _entry(config, "contexts", "context", config["current-context"])
        cluster = _entry(config, "clusters", "cluster", context["cluster"])
        user = _entry(config, "users", "user", context["user"])
        server = str(cluster["server"]).rstrip("/")
        if unsupported := {"exec", "auth-provider"} & user.keys():
            raise NoCluster(
                f"KUBECONFIG {path}: log-in by {min(unsupported)!r} is not supported; use a token "
                "(`kubectl create token`) or a client certificate, or run `kubectl proxy` and point KUBECONFIG at it"
            )
        tls = _tls(cluster, user, path.parent) if server.startswith("https://") else None
        token, token_file = user.get("token"), user.get("tokenFile")
    except (OSError, ValueError, TypeError, AttributeError, LookupError, yaml.YAMLError, ssl.SSLError) as error:
        raise NoCluster(f"KUBECONFIG {path} cannot be used: {type(error).__name__}: {error}") from error
    return ClusterAccess(server, tls, token, (path.parent / token_file) if token_file and not token else None)


def _entry(config: Mapping[str, Any], section: str, kind: str, name: str) -> dict[str, Any]:
    for item in config[section]:
        if item["name"] == name:
            found = item[kind]
            return dict(found) if found else {}
    raise LookupError(f"it has no {kind} {name!r}")


def _tls(cluster: Mapping[str, object], user: Mapping[str, object], folder: Path) -> ssl.SSLContext:
    tls = ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    elif data := _pem(cluster, "certificate-authority", folder):
        tls.load_verify_locations(cadata=data)
    certificate, key = _pem(user, "client-certificate", folder), _pem(user, "client-key", folder)
    if certificate and key:
        # OpenSSL reads a client's key from a file only. The folder is readable by us alone and gone at once.
        with tempfile.TemporaryDirectory() as private:
            chain = Path(private) / "client.pem"
            chain.write_text(f"{certificate}\n{key}\n")
            tls.load_cert_chain(chain)
    return tls


def _pem(section: Mapping[str, object], name: str, folder: Path) -> str | None:
    if section.get(f"{name}-data"):
        return base64.b64decode(str(section[f"{name}-data"])).decode("ascii")
    if section.get(name):
        return (folder / str(section[name])).read_text()
    return None

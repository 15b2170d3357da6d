"""Choose the variables by which pip and npm find mirrors, for the container of a build."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

# Others would change where packages are installed, or for which system.
_PIP = re.compile(
    r"PIP_(?:INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|TRUSTED_HOST|CERT|CLIENT_CERT|PROXY|DEFAULT_TIMEOUT|TIMEOUT|"
    r"RETRIES|CONSTRAINT|ONLY_BINARY|NO_BINARY|PREFER_BINARY|PRE|REQUIRE_HASHES|NO_DEPS)"
)
_NPM = re.compile(
    r"npm_config_(?:.*registry|cafile|ca|strict_ssl|proxy|https_proxy|noproxy|fetch_.*|.*_authtoken)", re.I
)
_BOTH = re.compile(r"(?:https?|no|all)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|NODE_EXTRA_CA_CERTS", re.I)
# Their values are files or folders of this machine, or lists of them.
_PATHS = re.compile(
    r"PIP_FIND_LINKS|PIP_CERT|PIP_CLIENT_CERT|PIP_CONSTRAINT|npm_config_cafile|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|"
    r"NODE_EXTRA_CA_CERTS",
    re.I,
)


@dataclass(frozen=True)
class BuildEnvironment:
    """The environment of a build.

    Attributes:
        mounts: files and folders of this machine, mounted at the same path.
        needs_host_network: a mirror listens on this machine's loopback interface.
    """

    variables: Mapping[str, str] = field(repr=False)
    mounts: tuple[str, ...] = ()
    needs_host_network: bool = False


def build_environment(environ: Mapping[str, str] = os.environ) -> BuildEnvironment:
    """Return what a build gets of this process's environment."""
    variables = {
        name: value
        for name, value in environ.items()
        if any(known.fullmatch(name) for known in (_PIP, _NPM, _BOTH)) and value
    }
    mounts: list[str] = []
    for name, value in list(variables.items()):
        if _PATHS.fullmatch(name):
            texts = [_absolute(text) for text in (value.split() if name.startswith("PIP_") else [value])]
            variables[name] = " ".join(texts)
            mounts += [text.removeprefix("file://") for text in texts if _is_path(text)]
    return BuildEnvironment(
        variables, tuple(dict.fromkeys(mounts)), any(map(_is_loopback, " ".join(variables.values()).split()))
    )


def _absolute(text: str) -> str:
    return text if "://" in text else os.path.abspath(text)


def _is_path(text: str) -> bool:
    path = text.removeprefix("file://")
    return "://" not in path and Path(path).exists()


def _is_loopback(text: str) -> bool:
    if "://" not in text:
        return False
    try:
        host = urlsplit(text).hostname or ""
    except ValueError:
        return False
    return host in ("localhost", "::1") or host.startswith("127.")

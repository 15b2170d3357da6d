"""Choose what the container of a build gets of the author's environment: mirrors, proxies, certificates."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

FILES = "/tmp/environment"  # noqa: S108 - inside the container
"""The folder of the container with copies of the author's files."""

# Others would change where packages are installed, or for which system.
_PIP = re.compile(
    r"PIP_(?:INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|TRUSTED_HOST|CERT|CLIENT_CERT|PROXY|DEFAULT_TIMEOUT|TIMEOUT|"
    r"RETRIES|CONSTRAINT|ONLY_BINARY|NO_BINARY|PREFER_BINARY|PRE|REQUIRE_HASHES|NO_DEPS)"
)
_NPM = re.compile(
    r"npm_config_(?:.*registry|cafile|ca|cert|key|strict_ssl|proxy|https_proxy|noproxy|fetch_.*|"
    r".*_?auth(?:token)?|//.*:(?:username|_password))",
    re.I,
)
_BOTH = re.compile(
    r"(?:https?|no|all)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NODE_EXTRA_CA_CERTS|"
    r"NODE_TLS_REJECT_UNAUTHORIZED",
    re.I,
)
# Their values are names of files of this machine; those of the first are lists.
_FILE_LISTS = re.compile(r"PIP_CONSTRAINT")
_FILES = re.compile(
    r"PIP_CONSTRAINT|PIP_CERT|PIP_CLIENT_CERT|npm_config_cafile|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|"
    r"NODE_EXTRA_CA_CERTS",
    re.I,
)
_FOLDERS = "PIP_FIND_LINKS"


@dataclass(frozen=True)
class BuildEnvironment:
    """The environment of a build.

    Attributes:
        files: copies of the author's files, by their name in :data:`FILES`. Keys are readable only by their owner on
            this machine, and the build is another user.
        mounts: files and folders of this machine, mounted at the same path.
        needs_host_network: a mirror or proxy listens on this machine's loopback interface.
    """

    variables: Mapping[str, str] = field(repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    mounts: tuple[str, ...] = ()
    needs_host_network: bool = False


def build_environment(environ: Mapping[str, str] = os.environ) -> BuildEnvironment:
    """Return what a build gets of this process's environment. A variable whose file cannot be read stays as it is."""
    variables = {
        name: value
        for name, value in environ.items()
        if any(known.fullmatch(name) for known in (_PIP, _NPM, _BOTH)) and value
    }
    files: dict[str, bytes] = {}
    mounts: list[str] = []
    for name, value in list(variables.items()):
        if name == _FOLDERS:
            links = [_absolute(link) for link in value.split()]
            variables[name] = " ".join(links)
            mounts += [link.removeprefix("file://") for link in links if _is_path(link)]
        elif _FILES.fullmatch(name):
            paths = value.split() if _FILE_LISTS.fullmatch(name) else [value]
            variables[name] = " ".join(_copied(path, files) for path in paths)
    return BuildEnvironment(
        variables, files, tuple(dict.fromkeys(mounts)), any(map(_is_loopback, " ".join(variables.values()).split()))
    )


def _copied(path: str, files: dict[str, bytes]) -> str:
    """Add the file to *files*, and return its path in the container."""
    try:
        content = Path(path.removeprefix("file://")).read_bytes()
    except OSError:
        return path
    name = next((known for known, other in files.items() if other == content), f"{len(files)}-{Path(path).name}")
    files[name] = content
    return f"{FILES}/{name}"


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

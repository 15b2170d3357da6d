from pathlib import Path

import pytest

from tools.author.dependencies.environment import build_environment


def test_mirrors_are_passed_and_other_options_are_not() -> None:
    passed = {
        "PIP_INDEX_URL": "https://mirror.example.com/simple",
        "PIP_NO_INDEX": "1",
        "NPM_CONFIG_REGISTRY": "https://mirror.example.com/npm",
        "npm_config_strict_ssl": "false",
        "npm_config_@acme:registry": "https://npm.example.com",
        "npm_config_//npm.example.com/:_authToken": "t",
        "HTTPS_PROXY": "http://proxy.example.com:3128",
        "no_proxy": "example.com",
    }
    others = {"PIP_TARGET": "/x", "PIP_REQUIRE_VIRTUALENV": "1", "PIP_PLATFORM": "win32", "npm_config_prefix": "/x"}

    found = build_environment({**passed, **others, "AWS_SECRET": "s", "PATH": "/bin", "PIP_CERT": ""})

    assert found.variables == passed
    assert (found.mounts, found.needs_host_network) == ((), False)


def test_folders_with_packages_are_mounted_at_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wheels", "more"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    links = f"wheels https://example.com/w file://{tmp_path}/more {tmp_path}/gone"

    found = build_environment({"PIP_FIND_LINKS": links})

    assert found.mounts == (f"{tmp_path}/wheels", f"{tmp_path}/more")
    assert found.variables["PIP_FIND_LINKS"].split()[0] == f"{tmp_path}/wheels"


@pytest.mark.parametrize(
    "variable",
    [
        *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        *("PIP_CERT", "PIP_CLIENT_CERT", "npm_config_cafile", "NPM_CONFIG_CAFILE"),
    ],
)
def test_certificate_is_copied_and_its_variable_names_the_copy(tmp_path: Path, variable: str) -> None:
    (tmp_path / "ca.pem").write_text("certificate")

    found = build_environment({variable: f"{tmp_path}/ca.pem"})

    assert found.files == {"0-ca.pem": b"certificate"}
    assert found.variables == {variable: "/tmp/environment/0-ca.pem"}
    assert found.mounts == ()


def test_files_of_the_same_name_are_copied_under_different_names_and_equal_ones_once(tmp_path: Path) -> None:
    for name, content in (("a", "one"), ("b", "two"), ("c", "one")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ca.pem").write_text(content)

    found = build_environment(
        {"PIP_CERT": f"{tmp_path}/a/ca.pem", "PIP_CONSTRAINT": f"{tmp_path}/b/ca.pem {tmp_path}/c/ca.pem"}
    )

    assert found.files == {"0-ca.pem": b"one", "1-ca.pem": b"two"}
    assert found.variables["PIP_CONSTRAINT"] == "/tmp/environment/1-ca.pem /tmp/environment/0-ca.pem"


def test_variable_stays_as_it_is_without_its_file(tmp_path: Path) -> None:
    found = build_environment({"SSL_CERT_FILE": f"{tmp_path}/gone", "PIP_CERT": str(tmp_path)})

    assert found.variables == {"SSL_CERT_FILE": f"{tmp_path}/gone", "PIP_CERT": str(tmp_path)}
    assert found.files == {}


@pytest.mark.parametrize(
    ("url", "needed"),
    [
        ("http://localhost:3141/simple", True),
        ("http://127.0.0.1:8081", True),
        ("http://[::1]:8081", True),
        ("https://localhost.example.com", False),
        ("https://pypi.example.com", False),
    ],
)
def test_mirror_on_this_machine_needs_its_network(url: str, needed: bool) -> None:
    assert build_environment({"PIP_INDEX_URL": url}).needs_host_network is needed

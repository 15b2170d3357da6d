from pathlib import Path

import pytest

from tools.author.dependencies.environment import build_environment


def test_mirrors_are_passed_and_other_options_are_not() -> None:
    passed = {
        "PIP_INDEX_URL": "https://mirror.example.com/simple",
        "PIP_NO_INDEX": "1",
        "NPM_CONFIG_REGISTRY": "https://mirror.example.com/npm",
        "npm_config_strict_ssl": "false",
        "HTTPS_PROXY": "http://proxy.example.com:3128",
        "no_proxy": "example.com",
    }
    others = {"PIP_TARGET": "/x", "PIP_REQUIRE_VIRTUALENV": "1", "PIP_PLATFORM": "win32", "npm_config_prefix": "/x"}

    found = build_environment({**passed, **others, "AWS_SECRET": "s", "PATH": "/bin", "PIP_CERT": ""})

    assert found.variables == passed
    assert (found.mounts, found.needs_host_network) == ((), False)


def test_files_and_folders_of_this_machine_are_mounted_at_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wheels", "more"):
        (tmp_path / name).mkdir()
    (tmp_path / "ca.pem").write_text("")
    monkeypatch.chdir(tmp_path)
    links = f"wheels https://example.com/w file://{tmp_path}/more {tmp_path}/gone"

    found = build_environment({"PIP_FIND_LINKS": links, "PIP_CERT": f"{tmp_path}/ca.pem"})

    assert found.mounts == (f"{tmp_path}/wheels", f"{tmp_path}/more", f"{tmp_path}/ca.pem")
    assert found.variables["PIP_FIND_LINKS"].split()[0] == f"{tmp_path}/wheels"


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

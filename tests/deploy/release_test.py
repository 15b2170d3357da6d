"""deploy/compose/release.sh with stand-ins for Docker, Compose and Pants, which note what they are asked for."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.manifests import ROOT

SERVICES = ("bot-runner", "backtest-runner", "bot-scheduler")

# Images are lines of a file. All have one id.
_DOCKER = """\
#!/bin/sh
case "$1 $2" in
  "image inspect") shift 4; grep -qxF "$1" {folder}/images && echo an-id ;;
  "inspect "*) case $3 in *Env*) cat {folder}/environment ;; *) echo an-id ;; esac ;;
  "tag "*) echo "$3" >> {folder}/images ;;
  "run "*) case "$*" in *inbox*) [ ! -e {folder}/older ]; exit ;; esac
    while [ "$1" != --entrypoint ]; do shift; done; shift; echo "$*" ;;
esac
"""
_COMPOSE = """\
#!/bin/sh
echo "$* TLS_MODE=${{TLS_MODE:-}}" >> {folder}/calls
case $1 in ps) cat {folder}/workers ;; esac
"""
_PANTS = """\
#!/bin/sh
echo built >> {folder}/builds
for service in bot-runner backtest-runner bot-scheduler; do echo "the0/$service:latest" >> {folder}/images; done
"""


class Release:
    """A checkout with an `.env` that names a tag, and with images of that tag."""

    def __init__(self, folder: Path, tag: str) -> None:
        self._folder = folder
        self._compose = folder / "deploy" / "compose"
        self._compose.mkdir(parents=True)
        shutil.copy(ROOT / "deploy" / "compose" / "release.sh", self._compose)
        (self._compose / ".env").write_text(f"MONGO_PASSWORD=secret\nTAG={tag}\nLOG_LEVEL=info\n")
        (self._compose / ".env").chmod(0o600)
        (folder / "workers").write_text("")
        (folder / "images").write_text("".join(f"the0/{service}:{tag}\n" for service in SERVICES))
        for name, text in {"docker": _DOCKER, "pants": _PANTS, "docker-compose": _COMPOSE}.items():
            (folder / name).write_text(text.format(folder=folder))
            (folder / name).chmod(0o755)

    def run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._compose / "release.sh", command],
            env={
                "PATH": "/usr/bin:/bin",
                "DOCKER": str(self._folder / "docker"),
                "COMPOSE": str(self._folder / "docker-compose"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def settings(self) -> dict[str, str]:
        """What is in `.env`."""
        return dict(line.split("=", 1) for line in (self._compose / ".env").read_text().splitlines())

    def set(self, **settings: str) -> None:
        """Add settings to `.env`."""
        with (self._compose / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())

    def mode(self) -> int:
        """The rights on `.env`."""
        return (self._compose / ".env").stat().st_mode & 0o777

    def bill_of(self, service: str) -> str:
        """What the build has left as the service's bill of materials."""
        return (self._folder / "dist" / f"{service}.cdx.json").read_text()

    def builds(self) -> int:
        """How often the images were built."""
        path = self._folder / "builds"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def started(self) -> list[list[str]]:
        """The services of each call that started some by name."""
        calls = (self._folder / "calls").read_text().splitlines()
        return [[word for word in call.split() if "-master" in word] for call in calls if "-master" in call]

    def runs_worker_with(self, *variables: str) -> None:
        """From now on one worker of each service runs, with this environment."""
        (self._folder / "workers").write_text("a-worker\n")
        (self._folder / "environment").write_text("".join(f"{variable}\n" for variable in variables))

    def lacks_inbox(self, lacks: bool) -> None:
        """Whether images are of a version before the users of NATS."""
        (self._folder / "older").touch() if lacks else (self._folder / "older").unlink()

    def modes(self) -> list[str]:
        """The TLS mode in the environment of each call that started masters or made certificates."""
        calls = (self._folder / "calls").read_text().splitlines()
        return [call.rpartition("=")[2] for call in calls if "-master" in call or "certificates" in call]

    def has(self, tag: str) -> bool:
        """Whether all three images are there under this tag."""
        images = (self._folder / "images").read_text().splitlines()
        return all(f"the0/{service}:{tag}" in images for service in SERVICES)


def test_upgrade_without_a_tag_builds_a_new_one_and_keeps_the_images_that_latest_was(tmp_path: Path) -> None:
    release = Release(tmp_path, "latest")

    process = release.run("upgrade")

    assert process.returncode == 0, process.stderr
    settings = release.settings()
    assert release.builds() == 1
    assert settings["TAG"] not in ("latest", settings["PREVIOUS_TAG"])
    assert settings["PREVIOUS_TAG"].startswith("before-")
    assert release.has(settings["TAG"])
    assert release.has(settings["PREVIOUS_TAG"])


def test_rollback_to_a_version_before_the_users_of_nats_permits_its_inbox_until_the_next_upgrade(
    tmp_path: Path,
) -> None:
    release = Release(tmp_path, "v1")
    release.run("upgrade", TAG="v2")
    assert not release.settings().get("NATS_OLDER_INBOX")

    release.lacks_inbox(True)
    release.run("rollback")
    assert release.settings()["NATS_OLDER_INBOX"] == "_INBOX.*.*"

    release.lacks_inbox(False)
    release.run("upgrade", TAG="v2")
    assert release.settings()["NATS_OLDER_INBOX"] == ""


def test_upgrade_replaces_the_second_masters_before_the_first(tmp_path: Path) -> None:
    release = Release(tmp_path, "v1")

    release.run("upgrade", TAG="v2")

    assert release.started() == [
        [f"{service}-master-2" for service in SERVICES],
        [f"{service}-master" for service in SERVICES],
    ]


@pytest.mark.parametrize(
    ("environment", "modes"),
    [
        # Certificates; both masters of each service accept workers without TLS; and once more, no longer.
        (["PATH=/bin"], ["", "allow", "allow", "", ""]),
        (["TLS_MODE=off"], ["", "allow", "allow", "", ""]),
        (["TLS_MODE=require"], ["", "", ""]),
        (["TLS_MODE=allow"], ["", "", ""]),
    ],
)
def test_upgrade_passes_through_allow_while_workers_have_no_tls(
    tmp_path: Path, environment: list[str], modes: list[str]
) -> None:
    release = Release(tmp_path, "v1")
    release.runs_worker_with(*environment)

    process = release.run("upgrade", TAG="v2")

    assert process.returncode == 0, process.stderr
    assert release.modes() == modes


@pytest.mark.parametrize("mode", ["off", "allow"])
def test_mode_of_the_env_file_is_left_to_compose(tmp_path: Path, mode: str) -> None:
    release = Release(tmp_path, "v1")
    release.runs_worker_with("PATH=/bin")
    release.set(TLS_MODE=mode)

    release.run("upgrade", TAG="v2")

    assert release.modes() == ["", "", ""]


def test_upgrade_keeps_every_other_setting_and_the_rights_of_the_env_file(tmp_path: Path) -> None:
    release = Release(tmp_path, "v1")

    release.run("upgrade", TAG="v2")

    expected = {"MONGO_PASSWORD": "secret", "TAG": "v2", "LOG_LEVEL": "info", "PREVIOUS_TAG": "v1"}
    assert release.settings() == expected
    assert release.mode() == 0o600


def test_rollback_goes_back_and_forth_between_two_versions_without_a_build(tmp_path: Path) -> None:
    release = Release(tmp_path, "v1")
    release.run("upgrade", TAG="v2")
    built = release.builds()

    release.run("rollback")
    back = release.settings()
    release.run("rollback")
    forth = release.settings()

    assert (back["TAG"], back["PREVIOUS_TAG"]) == ("v1", "v2")
    assert (forth["TAG"], forth["PREVIOUS_TAG"]) == ("v2", "v1")
    assert release.builds() == built


def test_repeated_upgrade_keeps_the_previous_version(tmp_path: Path) -> None:
    release = Release(tmp_path, "v1")
    release.run("upgrade", TAG="v2")

    process = release.run("upgrade", TAG="v2")

    assert process.returncode == 0, process.stderr
    assert release.settings()["PREVIOUS_TAG"] == "v1"


def test_rollback_without_a_previous_version_fails_and_changes_nothing(tmp_path: Path) -> None:
    release = Release(tmp_path, "v1")

    process = release.run("rollback")

    assert process.returncode == 1
    assert "PREVIOUS_TAG" in process.stderr
    assert release.settings()["TAG"] == "v1"


def test_rollback_to_images_that_are_gone_names_the_tag_and_changes_nothing(tmp_path: Path) -> None:
    release = Release(tmp_path, "v1")
    release.run("upgrade", TAG="v2")
    images = (tmp_path / "images").read_text().splitlines()
    (tmp_path / "images").write_text("".join(f"{image}\n" for image in images if not image.endswith(":v1")))

    process = release.run("rollback")

    assert process.returncode == 1
    assert "no images with the tag v1" in process.stderr
    assert release.settings()["TAG"] == "v2"


@pytest.mark.parametrize(("tag", "builds"), [("latest", 1), ("v1", 0)])
def test_ensure_builds_latest_each_time_and_a_version_only_where_it_is_missing(
    tmp_path: Path, tag: str, builds: int
) -> None:
    release = Release(tmp_path, tag)

    process = release.run("ensure")

    assert process.returncode == 0, process.stderr
    assert release.builds() == builds


def test_tag_of_the_environment_is_what_is_built(tmp_path: Path) -> None:
    release = Release(tmp_path, "latest")

    release.run("ensure", TAG="v2")

    assert release.has("v2")
    assert release.settings()["TAG"] == "latest"


@pytest.mark.parametrize("service", SERVICES)
def test_build_leaves_the_bill_of_materials_of_each_image_beside_its_output(tmp_path: Path, service: str) -> None:
    release = Release(tmp_path, "v1")

    process = release.run("build", TAG="v2")

    assert process.returncode == 0, process.stderr
    # The stand-in for Docker answers with what it is asked for.
    assert release.bill_of(service) == f"cat the0/{service}:v2 /app/sbom.cdx.json\n"

"""The Compose project, read by the real Compose program."""

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from libs.core.config.container_settings import ContainerSettings
from libs.core.process.service import SERVICES, ServiceDefinition
from tests.deploy.manifests import ROOT, USERS, password_variable, s3_secret_variable
from tests.deploy.settings_in_use import load_everything, unknown_variables
from tools.stack import binaries

FOLDER = ROOT / "deploy" / "compose"
SECRETS = (
    "MONGO_PASSWORD",
    "MONGO_KEY",
    "NATS_PASSWORD",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
    "GRAFANA_PASSWORD",
    "HTTP_TOKEN",
    *(password_variable(server, user) for server in ("MONGO", "NATS") for user in USERS),
    *(s3_secret_variable(user) for user in USERS),
)

ROLES = ("master", "master-2", "worker")
MASTERS = ("master", "master-2")

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)


@pytest.fixture(scope="module")
def environment_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make .env` writes. DOCKER_SOCKET is any file: its group is all that is asked for."""
    written = new_environment(tmp_path_factory.mktemp("env"))
    path = tmp_path_factory.mktemp("env") / ".env"
    path.write_text(written)
    return path


@pytest.fixture(scope="module")
def project(environment_file: Path) -> dict[str, Any]:
    """The project as Compose understands it."""
    process = compose(environment_file, "config", "--format", "json")
    assert process.returncode == 0, process.stderr
    assert not process.stderr, f"Compose warns: {process.stderr}"
    return dict(json.loads(process.stdout))


def compose(environment_file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(binaries.docker_compose()), f"--project-directory={FOLDER}", f"--file={FOLDER / 'compose.yaml'}"]
    return subprocess.run(
        [*command, f"--env-file={environment_file}", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"HOME": str(environment_file.parent)},
    )


def new_environment(socket: Path) -> str:
    process = subprocess.run(
        [FOLDER / "new-env.sh"],
        env={"PATH": "/usr/bin:/bin", "DOCKER_SOCKET": str(socket)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return process.stdout


def variables(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def test_compose_has_all_three_services_and_their_dependencies(project: dict[str, Any]) -> None:
    ours = {f"{service.name}-{role}" for service in SERVICES for role in ROLES}

    assert project["services"].keys() == ours | {
        "work-folder",
        "certificates",
        "mongo-users",
        "s3-users",
        "mongo",
        "nats",
        "s3",
        "prometheus",
        "grafana",
        "traces",
    }


def test_every_long_running_container_has_a_health_check(project: dict[str, Any]) -> None:
    unchecked = {name for name, service in project["services"].items() if "healthcheck" not in service}

    assert unchecked == {"work-folder", "certificates", "mongo-users", "s3-users"}


def test_what_must_outlive_a_container_is_in_a_volume(project: dict[str, Any]) -> None:
    kept = {
        mount["source"]
        for service in project["services"].values()
        for mount in service.get("volumes", [])
        if mount["type"] == "volume"
    }

    certificates = {f"tls-{service.name}-{role}" for service in SERVICES for role in ("master", "worker")}
    assert kept == {"mongo", "nats", "s3", "s3-users", "prometheus", "grafana", "authority"} | certificates
    assert kept == project["volumes"].keys()


def test_no_port_is_open_to_another_machine(project: dict[str, Any]) -> None:
    ports = [port for service in project["services"].values() for port in service.get("ports", [])]

    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert len({port["published"] for port in ports}) == len(ports)


def test_every_third_party_process_has_a_memory_limit(project: dict[str, Any]) -> None:
    limits = {
        name: int(service.get("mem_limit", 0))
        for name, service in project["services"].items()
        if "healthcheck" in service
    }

    assert [name for name, limit in limits.items() if not limit] == []


def test_busy_bots_keep_no_lease_from_being_renewed(project: dict[str, Any]) -> None:
    taking_part = ["mongo", "nats", "s3", *(f"{service.name}-{role}" for service in SERVICES for role in ROLES)]
    weights = {name: int(project["services"][name].get("cpu_shares", 1024)) for name in taking_part}

    # Of a bot without a weight of its own: see CPU_SHARES.
    assert min(weights.values()) >= 32 * ContainerSettings().cpu_shares
    # The largest that Docker accepts.
    assert max(weights.values()) <= 262144


def test_images_of_the_runtime_are_never_pulled(project: dict[str, Any]) -> None:
    policies = {
        service.get("pull_policy") for service in project["services"].values() if service["image"].startswith("the0/")
    }

    assert policies == {"never"}


@each_service
@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_process_is_one_of_its_settings(
    project: dict[str, Any], service: ServiceDefinition, role: str
) -> None:
    given = project["services"][f"{service.name}-{role}"]["environment"]

    assert unknown_variables(given, service) == set()
    load_everything(given, service)


@each_service
def test_workers_reach_the_hosts_engine_and_share_a_folder_with_it_at_one_path(
    project: dict[str, Any], service: ServiceDefinition
) -> None:
    worker = project["services"][f"{service.name}-worker"]
    paths = {mount["source"]: mount["target"] for mount in worker["volumes"] if mount["type"] == "bind"}
    folder = worker["environment"]["TEMP_DIR"]
    (memory,) = {str(Path(worker["environment"][name]).parent) for name in ("KEEPALIVE_DIR", "SPEC_DIR")}

    assert paths == {"/var/run/docker.sock": "/var/run/docker.sock", folder: folder, memory: memory}
    assert memory == "/dev/shm"
    assert folder == "/var/lib/the0"
    assert worker["depends_on"]["work-folder"]["condition"] == "service_completed_successfully"


@each_service
@pytest.mark.parametrize("role", MASTERS)
def test_master_reports_the_published_port(project: dict[str, Any], service: ServiceDefinition, role: str) -> None:
    master = project["services"][f"{service.name}-{role}"]
    (port,) = [port for port in master["ports"] if port["target"] == 8080]

    assert master["environment"]["PUBLIC_URL"] == f"http://localhost:{port['published']}"


@each_service
def test_first_master_of_a_service_with_queries_publishes_their_port(
    project: dict[str, Any], service: ServiceDefinition
) -> None:
    published = [port["target"] for port in project["services"][f"{service.name}-{MASTERS[0]}"]["ports"]]

    assert published == ([8080, 9477] if service.answers_queries else [8080])


@each_service
def test_second_master_has_the_name_by_which_workers_and_prometheus_find_masters(
    project: dict[str, Any], service: ServiceDefinition
) -> None:
    first, second = (project["services"][f"{service.name}-{role}"] for role in MASTERS)

    assert second["networks"]["default"]["aliases"] == [f"{service.name}-master"]
    assert (second["image"], second["healthcheck"]) == (first["image"], first["healthcheck"])
    assert second["healthcheck"] != project["services"][f"{service.name}-worker"]["healthcheck"]


@each_service
def test_masters_and_workers_run_with_no_more_rights_than_they_use(
    project: dict[str, Any], service: ServiceDefinition
) -> None:
    for role in ROLES:
        process = project["services"][f"{service.name}-{role}"]
        assert process["cap_drop"] == ["ALL"]
        assert process["read_only"] is True
        assert "user" not in process
        assert not process.get("privileged")


@each_service
def test_a_worker_has_time_to_stop_its_bots(project: dict[str, Any], service: ServiceDefinition) -> None:
    assert project["services"][f"{service.name}-worker"]["stop_grace_period"] == "1m15s"


def test_every_image_has_a_version(project: dict[str, Any]) -> None:
    foreign = {
        name: service["image"] for name, service in project["services"].items() if "the0/" not in service["image"]
    }

    assert all(re.search(r":v?\d+\.\d", image) for image in foreign.values()), foreign


def test_the_s3_server_is_started_where_its_image_has_it(project: dict[str, Any]) -> None:
    s3 = project["services"]["s3"]

    assert s3["image"].partition("@")[0] == "versity/versitygw:v1.8.0"
    assert "exec /usr/local/bin/versitygw " in s3["command"][-1]


class MongoCheck:
    """The health check of MongoDB, with a stand-in for its shell that notes how it is called."""

    def __init__(self, project: dict[str, Any], folder: Path, port: int) -> None:
        kind, *self._command = project["services"]["mongo"]["healthcheck"]["test"]
        assert kind == "CMD"
        # A `$` in the project's file is written twice.
        script = self._command[-1].replace("$$", "$").replace("/tmp/founded", f"{folder}/founded")
        self._command[-1] = script.replace("27017", str(port))
        self._calls = folder / "calls"
        self._verdict = folder / "verdict"
        shell = folder / "mongosh"
        shell.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {self._calls}\nexit "$(cat {self._verdict})"\n')
        shell.chmod(0o755)
        self._environment = {"PATH": f"{folder}:/usr/bin:/bin", "MONGO_INITDB_ROOT_PASSWORD": "mongo-secret"}

    def run(self, *, primary: bool) -> bool:
        """Whether it says healthy while the shell finds a primary or none."""
        self._verdict.write_text("0" if primary else "1")
        ended = subprocess.run(self._command, env=self._environment, capture_output=True, timeout=60, check=False)
        return ended.returncode == 0

    def calls(self) -> int:
        """How often the shell was called."""
        return self._calls.read_text().count("--quiet")

    def arguments(self) -> str:
        """All that was on the shell's command lines."""
        return self._calls.read_text()


def test_health_check_of_mongodb_uses_its_shell_until_it_has_a_primary_and_then_a_connection(
    project: dict[str, Any], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check = MongoCheck(project, tmp_path, server.getsockname()[1])
        assert not check.run(primary=False)
        assert not check.run(primary=False)
        assert check.run(primary=True)
        assert check.run(primary=False)
        assert check.calls() == 3
    assert not check.run(primary=True)
    assert "mongo-secret" not in check.arguments()


def test_where_docker_runs_in_a_virtual_machine_the_work_folder_is_one_that_it_mounts(tmp_path: Path) -> None:
    uname = tmp_path / "uname"
    uname.write_text("#!/bin/sh\necho Darwin\n")
    uname.chmod(0o755)

    script = subprocess.run(
        [FOLDER / "new-env.sh"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    written = variables(script.stdout)
    assert (written["WORK_DIR"], written["DOCKER_GID"]) == ("/tmp/the0-runtime", "0")


def test_start_without_secrets_fails_with_the_command_to_run(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("")

    process = compose(tmp_path / ".env", "config", "--quiet")

    assert process.returncode != 0
    assert "run make" in process.stderr


class Make:
    """`make` on a copy of the folder, with a stand-in for Compose that prints how it is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "compose"
        shutil.copytree(FOLDER, self.folder, ignore=shutil.ignore_patterns(".env"))
        self._program = folder / "compose-program"
        self._program.write_text('#!/bin/sh\necho "compose $* password=${MONGO_PASSWORD:-}"\n')
        self._program.chmod(0o755)

    def run(self, target: str, **environment: str) -> str:
        """What it printed; raises where it fails."""
        if shutil.which("make") is None and "CI" not in os.environ:
            pytest.skip("make is not installed")
        return subprocess.run(
            ["make", "--silent", target, f"COMPOSE={self._program}"],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout


@pytest.mark.parametrize("target", ["ps", "down", "clean", "logs"])
def test_commands_that_inspect_stop_or_remove_need_no_env_file(tmp_path: Path, target: str) -> None:
    assert "--env-file .env.example" in Make(tmp_path).run(target)


def test_example_of_the_env_file_is_enough_for_compose_to_remove_everything() -> None:
    process = compose(FOLDER / ".env.example", "config", "--quiet")

    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize(("user", "left"), [(os.getuid(), []), (os.getuid() + 1, ["admission.lock", "code"])])
def test_clean_removes_all_files_of_the_workers_and_no_others(tmp_path: Path, user: int, left: list[str]) -> None:
    removal = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["work-folder-removal"]
    words = {"${WORK_DIR:-/var/lib/the0}": str(tmp_path), "10001": str(user)}
    (tmp_path / "code" / "trees").mkdir(parents=True)
    (tmp_path / "admission.lock").touch()

    subprocess.run([words.get(word, word) for word in removal["entrypoint"]], timeout=60, check=True)

    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_env_file_is_used_where_there_is_one(tmp_path: Path) -> None:
    make = Make(tmp_path)
    (make.folder / ".env").write_text("MONGO_PASSWORD=a\n")

    assert "--env-file .env " in make.run("ps")


def test_password_that_the_shell_has_exported_does_not_reach_compose(tmp_path: Path) -> None:
    assert "password=\n" in Make(tmp_path).run("ps", MONGO_PASSWORD="of-an-older-env")


def test_env_file_of_an_older_version_gets_what_it_lacks_and_keeps_the_rest(tmp_path: Path) -> None:
    make = Make(tmp_path)
    older = "\n".join(f"{name}=as-it-was" for name in SECRETS if name != "HTTP_TOKEN")
    file = make.folder / ".env"
    file.write_text(f"{older}\nTAG=v7")
    file.chmod(0o600)

    printed = make.run("complete-env")
    completed = file.read_text()

    assert make.run("complete-env") == ""
    assert file.read_text() == completed
    assert completed.startswith(f"{older}\nTAG=v7\n")
    assert re.fullmatch(r"k[0-9a-f]{47}", variables(completed)["HTTP_TOKEN"])
    assert variables(completed).keys() == {*SECRETS, "TAG"}
    assert variables(completed)["HTTP_TOKEN"] not in printed
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in make.folder.glob(".env*")) == [".env", ".env.example"]


def test_token_that_is_left_empty_on_purpose_stays_empty(tmp_path: Path) -> None:
    make = Make(tmp_path)
    (make.folder / ".env").write_text("HTTP_TOKEN=\n")

    make.run("complete-env")

    assert variables((make.folder / ".env").read_text())["HTTP_TOKEN"] == ""


@each_service
@pytest.mark.parametrize("role", ROLES)
def test_each_process_has_the_certificate_of_its_role_alone_and_requires_one(
    project: dict[str, Any], service: ServiceDefinition, role: str
) -> None:
    process = project["services"][f"{service.name}-{role}"]
    (mount,) = [found for found in process["volumes"] if found["type"] == "volume"]
    settings = process["environment"]
    names = {name: Path(settings[name]) for name in ("TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE")}

    assert mount["source"] == f"tls-{service.name}-{role.removesuffix('-2')}"
    assert mount["read_only"] is True
    assert {path.parent for path in names.values()} == {Path(mount["target"]) / "current"}
    assert [path.name for path in names.values()] == ["ca.crt", "tls.crt", "tls.key"]
    assert settings["TLS_MODE"] == "require"
    assert process["depends_on"]["certificates"]["condition"] == "service_completed_successfully"


@each_service
@pytest.mark.parametrize("role", ROLES)
def test_each_process_logs_in_to_mongodb_as_the_user_of_its_role(
    project: dict[str, Any], environment_file: Path, service: ServiceDefinition, role: str
) -> None:
    user = f"{service.name}-{role.removesuffix('-2')}"
    password = variables(environment_file.read_text())[password_variable("MONGO", user)]

    process = project["services"][f"{service.name}-{role}"]

    expected = f"mongodb://{user}:{password}@mongo:27017/?replicaSet=rs0&authSource=admin"
    assert process["environment"]["MONGO_URI"] == expected
    assert process["depends_on"]["mongo-users"]["condition"] == "service_completed_successfully"


@each_service
@pytest.mark.parametrize("role", ROLES)
def test_each_process_logs_in_to_nats_as_the_user_of_its_role(
    project: dict[str, Any], environment_file: Path, service: ServiceDefinition, role: str
) -> None:
    user = f"{service.name}-{role.removesuffix('-2')}"
    variable = password_variable("NATS", user)
    password = variables(environment_file.read_text())[variable]

    process = project["services"][f"{service.name}-{role}"]

    assert process["environment"]["NATS_URL"] == f"nats://{user}:{password}@nats:4222"
    assert project["services"]["nats"]["environment"][variable] == password


@each_service
@pytest.mark.parametrize("role", ROLES)
def test_each_process_has_the_key_of_s3_of_its_role(
    project: dict[str, Any], environment_file: Path, service: ServiceDefinition, role: str
) -> None:
    user = f"{service.name}-{role.removesuffix('-2')}"
    variable = s3_secret_variable(user)
    secret = variables(environment_file.read_text())[variable]

    process = project["services"][f"{service.name}-{role}"]

    settings = process["environment"]
    assert (settings["MINIO_ACCESS_KEY_ID"], settings["MINIO_SECRET_ACCESS_KEY"]) == (user, secret)
    assert project["services"]["s3-users"]["environment"][variable] == secret
    assert process["depends_on"]["s3-users"]["condition"] == "service_completed_successfully"


def test_users_of_s3_outlive_its_container_and_are_in_no_back_up(project: dict[str, Any]) -> None:
    s3 = project["services"]["s3"]
    paths = {mount["source"]: mount["target"] for mount in s3["volumes"]}

    assert f"--iam-dir={paths['s3-users']} " in s3["command"][-1]
    assert not Path(paths["s3-users"]).is_relative_to(paths["s3"])


def test_only_the_container_that_makes_certificates_has_the_authority(project: dict[str, Any]) -> None:
    having = {
        name
        for name, service in project["services"].items()
        for mount in service.get("volumes", [])
        if mount["source"] == "authority"
    }

    assert having == {"certificates"}
    assert project["services"]["certificates"]["network_mode"] == "none"


@each_service
def test_status_pages_require_the_token_of_the_env_file(
    project: dict[str, Any], environment_file: Path, service: ServiceDefinition
) -> None:
    token = variables(environment_file.read_text())["HTTP_TOKEN"]

    found = [project["services"][f"{service.name}-{role}"]["environment"]["HTTP_TOKEN"] for role in ROLES]

    assert found == [token] * len(ROLES)


def run_runtime(folder: Path, settings: str) -> list[str]:
    """Call the `runtime` of a copy of the folder in the new *folder*, and return the words that it passes on."""
    compose_folder = folder / "deploy" / "compose"
    compose_folder.mkdir(parents=True)
    shutil.copy(FOLDER / "runtime", compose_folder / "runtime")
    (compose_folder / ".env").write_text(settings)
    (folder / "runtime").write_text('#!/bin/sh\necho "$@" "$MONGO_URI" "$NATS_URL" "$MINIO_ENDPOINT" "$HTTP_TOKEN"\n')
    (folder / "runtime").chmod(0o755)
    process = subprocess.run(
        [compose_folder / "runtime", "bot", "ls"],
        env={"PATH": "/usr/bin:/bin", "MONGO_PASSWORD": "of-an-older-env"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return process.stdout.split()


def test_runtime_command_of_this_folder_uses_addresses_and_passwords_of_the_env_file(tmp_path: Path) -> None:
    settings = "MONGO_PASSWORD=m\nNATS_PASSWORD=n\nNATS_PORT=5\nS3_ACCESS_KEY=a\nS3_SECRET_KEY=s\n"

    assert run_runtime(tmp_path, settings) == [
        *("bot", "ls", "mongodb://the0:m@localhost:27017/?authSource=admin&directConnection=true"),
        *("nats://the0:n@localhost:5", "localhost:9000"),
    ]


def test_runtime_of_this_folder_is_given_the_token_of_the_status_pages(tmp_path: Path) -> None:
    assert run_runtime(tmp_path, "HTTP_TOKEN=a-token-of-the-masters\n")[-1] == "a-token-of-the-masters"


def test_a_new_environment_has_fresh_secrets_each_time_and_nothing_left_to_fill_in(tmp_path: Path) -> None:
    first, second = variables(new_environment(tmp_path)), variables(new_environment(tmp_path))

    assert all(first[name] != second[name] for name in SECRETS)
    assert len({first[name] for name in SECRETS}) == len(SECRETS)
    # Begins with a letter, or NATS takes it for a number; 48 characters of base64, as MongoDB wants its key.
    assert all(re.fullmatch(r"k[0-9a-f]{47}", first[name]) for name in SECRETS)
    assert first["DOCKER_GID"] == str(tmp_path.stat().st_gid)
    assert "generate" not in first.values()


def test_no_secret_is_in_the_files() -> None:
    for path in [*FOLDER.glob("*.y*ml"), *FOLDER.glob("*.conf"), *FOLDER.glob("grafana/*")]:
        for line in path.read_text().splitlines():
            secret = re.search(r"(?i)(?:password|key|key_id):? *[:=] *([^\s?]\S*)", line)
            # The access key of a role is its name.
            named = secret is None or secret[1].startswith(("$", "{environment:")) or secret[1] in USERS
            assert named, f"{path.name}: {line}"
    assert all(
        value == "generate"
        for name, value in variables((FOLDER / ".env.example").read_text()).items()
        if name in SECRETS
    )


def test_prometheus_scrapes_every_process(project: dict[str, Any]) -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (discovery,) = config["scrape_configs"][0]["dns_sd_configs"]

    assert set(discovery["names"]) == {
        f"{service.name}-{role}" for service in SERVICES for role in ("master", "worker")
    }
    assert set(discovery["names"]) <= project["services"].keys()


def test_grafana_has_its_sources_and_the_dashboards_of_this_repository(project: dict[str, Any]) -> None:
    grafana = project["services"]["grafana"]
    mounts = {mount["target"]: Path(mount["source"]) for mount in grafana["volumes"] if mount["type"] == "bind"}
    provider = yaml.safe_load((FOLDER / "grafana" / "dashboards.yaml").read_text())["providers"][0]
    sources = yaml.safe_load((FOLDER / "grafana" / "datasources.yaml").read_text())["datasources"]

    assert mounts[provider["options"]["path"]] == ROOT / "deploy" / "grafana" / "dashboards"
    assert {source["type"] for source in sources} == {"prometheus", "jaeger"}
    assert {config["target"] for config in grafana["configs"]} == {
        "/etc/grafana/provisioning/datasources/the0.yaml",
        "/etc/grafana/provisioning/dashboards/the0.yaml",
    }


@each_service
def test_growing_process_is_stopped_by_its_limit_before_the_host_lacks_memory(
    project: dict[str, Any], service: ServiceDefinition
) -> None:
    limits = {role: int(project["services"][f"{service.name}-{role}"]["mem_limit"]) for role in ROLES}

    assert limits == {"master": 256 * 1024**2, "master-2": 256 * 1024**2, "worker": 512 * 1024**2}

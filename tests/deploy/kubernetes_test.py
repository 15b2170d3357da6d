"""The Kubernetes manifests: valid by the API's own schemas, whole, and as safe as they say."""

import os
import re
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml

from libs.core.process.service import BOT_RUNNER, SERVICES, ServiceDefinition
from libs.core.transport.pod_tokens import AUDIENCE
from libs.core.transport.security import role_name
from libs.docker_runner.engine.users import UserRange
from tests.deploy.manifests import (
    KUBERNETES,
    ROOT,
    USERS,
    container,
    containers,
    environment,
    mounts,
    named,
    of_kind,
    password_variable,
    permits_egress,
    pod_spec,
    references,
    rendered,
    s3_secret_variable,
    selected,
)
from tests.deploy.settings_in_use import load_everything, unknown_variables
from tests.support.fakes.fake_kubernetes import ALL_RULES, rules_of
from tools.stack import binaries

BASES = [f"base/{service.name}" for service in SERVICES]
OVERLAYS = ["overlays/dev", "overlays/production", "overlays/node-socket"]
FOLDERS = [*BASES, *OVERLAYS]
# The oldest that has sidecar containers and admission policies without a feature gate, and the newest.
API_VERSIONS = ["1.30", "1.37"]
WITHOUT_NAMESPACE = {
    "ClusterRole",
    "ClusterRoleBinding",
    "Namespace",
    "PriorityClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}

_MONGO_OPTIONS = "?replicaSet=rs0&authSource=admin"

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
each_folder = pytest.mark.parametrize("folder", FOLDERS)


@each_folder
@pytest.mark.parametrize("version", API_VERSIONS)
def test_every_object_has_only_fields_of_the_api(folder: str, version: str) -> None:
    known = [document for document in rendered(folder) if document["apiVersion"] != "monitoring.coreos.com/v1"]

    assert [complaint for document in known if (complaint := complaint_of(document, version)) is not None] == []


def complaint_of(document: dict[str, Any], version: str) -> str | None:
    """What the API of this version has against an object."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{document['kind']} {document['metadata']['name']}: {error}"
    return None


def test_schema_check_refuses_a_field_that_the_api_lacks() -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"prots": []}}

    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        kubernetes_validate.validate(wrong, API_VERSIONS[-1], strict=True)


@each_folder
def test_no_two_objects_have_one_name(folder: str) -> None:
    names = [(document["kind"], document["metadata"]["name"]) for document in rendered(folder)]

    assert len(names) == len(set(names))


@each_folder
def test_every_reference_of_a_pod_exists_or_is_a_secret_of_the_operator(folder: str) -> None:
    present = {(document["kind"], document["metadata"]["name"]) for document in rendered(folder)}
    named_by_pods = {
        reference for workload in of_kind(folder, "Deployment", "StatefulSet") for reference in references(workload)
    }

    assert named_by_pods - present <= {("Secret", "the0-connections"), ("Secret", "the0-backing-services")}


@each_folder
def test_no_secret_is_in_the_files(folder: str) -> None:
    assert of_kind(folder, "Secret") == []
    for workload in of_kind(folder, "Deployment", "StatefulSet"):
        for found in containers(workload):
            secret = [
                name
                for name in environment(found)
                if re.search("KEY|PASSWORD|SECRET|MONGO_URI|NATS_URL", name) and not name.endswith("_FILE")
            ]
            assert all("valueFrom" in environment(found)[name] for name in secret)


@each_folder
def test_every_container_has_requests_and_limits(folder: str) -> None:
    for workload in of_kind(folder, "Deployment", "StatefulSet"):
        for found in containers(workload):
            assert {"cpu", "memory"} <= found["resources"]["requests"].keys()
            assert "memory" in found["resources"]["limits"]


@pytest.mark.parametrize("folder", ["overlays/dev", "overlays/production"])
def test_only_the_engine_is_privileged(folder: str) -> None:
    privileged = {
        (pod_spec(workload)["serviceAccountName"], found["name"])
        for workload in of_kind(folder, "Deployment", "StatefulSet")
        for found in containers(workload)
        if found["securityContext"].get("privileged")
    }

    assert privileged == {(f"{service.name}-worker", "engine") for service in SERVICES}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_all_pods_except_workers_meet_the_restricted_standard(folder: str) -> None:
    for workload in of_kind(folder, "Deployment", "StatefulSet"):
        if workload["metadata"]["labels"].get("app.kubernetes.io/component") != "worker":
            spec = pod_spec(workload)
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume]
            for found in containers(workload):
                assert found["securityContext"]["allowPrivilegeEscalation"] is False
                assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_namespace_has_a_pod_security_level(folder: str) -> None:
    (namespace,) = of_kind(folder, "Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/warn"] == "restricted"
    assert {
        document["metadata"].get("namespace")
        for document in rendered(folder)
        if document["kind"] not in WITHOUT_NAMESPACE
    } == {namespace["metadata"]["name"]}


@each_service
def test_address_of_traces_is_a_setting_and_their_key_a_secret(service: ServiceDefinition, tmp_path: Path) -> None:
    overlay = {
        "resources": [os.path.relpath(KUBERNETES / "base" / service.name, tmp_path.resolve())],
        "configMapGenerator": [
            {
                "name": f"{service.name}-settings",
                "behavior": "merge",
                "literals": ["OTEL_EXPORTER_OTLP_ENDPOINT=http://otel-collector.monitoring:4317"],
            }
        ],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    folder = str(tmp_path.resolve())

    for role in ("master", "worker"):
        found = container(named(folder, "Deployment", f"{service.name}-{role}"), role)
        settings = named(folder, "ConfigMap", found["envFrom"][0]["configMapRef"]["name"])["data"]
        assert settings["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector.monitoring:4317"
        headers = environment(found)["OTEL_EXPORTER_OTLP_HEADERS_FILE"]["value"]
        assert headers == f"{mounts(found)['access']}/otlp-headers"
    policy = named(folder, "NetworkPolicy", f"{service.name}-master")
    assert {"protocol": "TCP", "port": 4317} in policy["spec"]["egress"][1]["ports"]


@each_service
def test_containers_of_the_runtime_run_as_the_user_of_the_image_and_not_as_root(service: ServiceDefinition) -> None:
    (user,) = re.findall(r"^ARG UID=(\d+)", (ROOT / "Dockerfile.base").read_text(), re.MULTILINE)
    folder = f"base/{service.name}"
    master = pod_spec(named(folder, "Deployment", f"{service.name}-master"))["securityContext"]
    worker = container(named(folder, "Deployment", f"{service.name}-worker"), "worker")["securityContext"]

    assert (master["runAsUser"], worker["runAsUser"], worker["runAsNonRoot"]) == (int(user), int(user), True)


@each_service
def test_role_has_exactly_the_rights_of_the_autoscaler_on_workers_of_its_service(
    service: ServiceDefinition,
) -> None:
    folder = f"base/{service.name}"
    role = named(folder, "Role", f"{service.name}-autoscaler")
    (binding,) = of_kind(folder, "RoleBinding")

    assert rules_of(role) == ALL_RULES
    named_rules = [rule for rule in role["rules"] if "apps" in rule["apiGroups"]]
    assert [rule["resourceNames"] for rule in named_rules] == [[f"{service.name}-worker"]] * 2
    assert [subject["name"] for subject in binding["subjects"]] == [f"{service.name}-master"]


@each_service
def test_masters_may_have_tokens_reviewed_and_nothing_else_in_the_cluster(service: ServiceDefinition) -> None:
    (role,) = of_kind(f"base/{service.name}", "ClusterRole")
    (binding,) = of_kind(f"base/{service.name}", "ClusterRoleBinding")

    assert role["rules"] == [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["name"] for subject in binding["subjects"]] == [f"{service.name}-master"]


@pytest.mark.parametrize("folder", [f"overlays/{name}" for name in ("dev", "production", "node-socket")])
def test_objects_of_the_cluster_carry_the_namespace_of_the_overlay_and_refer_to_each_other(folder: str) -> None:
    (namespace,) = [found["metadata"]["name"] for found in of_kind(folder, "Namespace")]
    names = {kind: {found["metadata"]["name"] for found in of_kind(folder, kind)} for kind in WITHOUT_NAMESPACE}
    bindings = of_kind(folder, "ClusterRoleBinding")
    reviews = {f"{namespace}-{service.name}-master-reviews-tokens" for service in SERVICES}
    patches = {f"{namespace}-{service.name}-master-patches-pods" for service in SERVICES}

    assert names["ClusterRole"] == names["ClusterRoleBinding"] == reviews
    assert names["ValidatingAdmissionPolicy"] == names["ValidatingAdmissionPolicyBinding"] == patches
    assert {found["roleRef"]["name"] for found in bindings} == reviews
    assert {subject["namespace"] for found in bindings for subject in found["subjects"]} == {namespace}
    for found in of_kind(folder, "ValidatingAdmissionPolicyBinding"):
        assert found["spec"]["policyName"] == found["metadata"]["name"]


@each_service
def test_workers_prove_the_name_of_their_pod_and_the_engine_has_no_token(service: ServiceDefinition) -> None:
    worker = named(f"base/{service.name}", "Deployment", f"{service.name}-worker")
    master = container(named(f"base/{service.name}", "Deployment", f"{service.name}-master"), "master")
    settings = named(f"base/{service.name}", "ConfigMap", master["envFrom"][0]["configMapRef"]["name"])["data"]
    (volume,) = [found for found in pod_spec(worker)["volumes"] if found["name"] == "pod-token"]
    (source,) = volume["projected"]["sources"]
    mounts = {
        name: [mount for mount in container(worker, name)["volumeMounts"] if mount["name"] == "pod-token"]
        for name in ("worker", "engine")
    }

    assert source["serviceAccountToken"]["audience"] == AUDIENCE
    (mount,) = mounts["worker"]
    path = f"{mount['mountPath']}/{source['serviceAccountToken']['path']}"
    assert environment(container(worker, "worker"))["POD_TOKEN_FILE"]["value"] == path
    assert mounts["engine"] == []
    assert settings["POD_TOKENS"] == "require"
    assert environment(master)["WORKER_SERVICE_ACCOUNT"]["value"] == pod_spec(worker)["serviceAccountName"]


@each_service
@pytest.mark.parametrize("role", ["master", "worker"])
def test_connections_are_files_that_only_the_runtime_sees(service: ServiceDefinition, role: str) -> None:
    deployment = named(f"base/{service.name}", "Deployment", f"{service.name}-{role}")
    (volume,) = [found for found in pod_spec(deployment)["volumes"] if found["name"] == "connections"]
    own = container(deployment, role)
    folder = mounts(own)["connections"]
    named_files = {
        name: variable["value"]
        for name, variable in environment(own).items()
        if variable.get("value", "").startswith(f"{folder}/")
    }

    assert {name: path.removeprefix(f"{folder}/") for name, path in named_files.items()} == {
        "MONGO_URI_FILE": "mongo-uri",
        "NATS_URL_FILE": "nats-url",
        "MINIO_ACCESS_KEY_ID_FILE": "s3-access-key",
        "MINIO_SECRET_ACCESS_KEY_FILE": "s3-secret-key",
    }
    # Not for every user of the container, and readable by the runtime's group.
    assert volume["secret"] == {"secretName": "the0-connections", "defaultMode": 0o440}
    assert pod_spec(deployment)["securityContext"]["fsGroup"] == 10001
    assert [found["name"] for found in containers(deployment) if "connections" in mounts(found)] == [role]
    assert [
        name for name, variable in environment(own).items() if "secretKeyRef" in variable.get("valueFrom", {})
    ] == []
    assert not {name.removesuffix("_FILE") for name in named_files} & environment(own).keys()


@pytest.mark.parametrize("folder", [*(f"base/{service.name}" for service in SERVICES), *OVERLAYS])
def test_token_and_headers_of_collectors_are_files_that_may_be_missing(folder: str) -> None:
    for deployment in of_kind(folder, "Deployment"):
        role = deployment["metadata"]["labels"]["app.kubernetes.io/component"]
        (volume,) = [found for found in pod_spec(deployment)["volumes"] if found["name"] == "access"]
        own = container(deployment, role)
        keys = {"HTTP_TOKEN_FILE": "http-token", "OTEL_EXPORTER_OTLP_HEADERS_FILE": "otlp-headers"}

        assert volume["secret"] == {
            "secretName": "the0-connections",
            "defaultMode": 0o440,
            "optional": True,
            "items": [{"key": key, "path": key} for key in keys.values()],
        }
        for name, key in keys.items():
            assert environment(own)[name]["value"] == f"{mounts(own)['access']}/{key}"
        assert [found["name"] for found in containers(deployment) if "access" in mounts(found)] == [role]


@each_service
def test_admission_policy_limits_the_account_of_this_services_masters(service: ServiceDefinition) -> None:
    folder = f"base/{service.name}"
    (policy,) = of_kind(folder, "ValidatingAdmissionPolicy")
    (binding,) = of_kind(folder, "ValidatingAdmissionPolicyBinding")
    master = named(folder, "Deployment", f"{service.name}-master")

    (condition,) = policy["spec"]["matchConditions"]
    assert f"':' + '{pod_spec(master)['serviceAccountName']}'" in condition["expression"]
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    assert policy["spec"]["failurePolicy"] == "Fail"


@each_service
def test_masters_scale_this_services_workers_in_their_own_namespace(service: ServiceDefinition) -> None:
    master = named(f"base/{service.name}", "Deployment", f"{service.name}-master")
    variables = environment(container(master, "master"))

    assert variables["DEPLOYMENT_NAME"]["value"] == f"{service.name}-worker"
    assert variables["NAMESPACE"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


@each_service
def test_workers_have_the_name_of_their_pod_and_no_access_to_the_cluster(service: ServiceDefinition) -> None:
    worker = named(f"base/{service.name}", "Deployment", f"{service.name}-worker")

    variables = environment(container(worker, "worker"))
    assert variables["WORKER_ID"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert variables["MASTER_SERVICE"]["value"] == f"{service.name}-master"
    assert pod_spec(worker)["automountServiceAccountToken"] is False


@pytest.mark.parametrize("folder", OVERLAYS)
@each_service
@pytest.mark.parametrize("role", ["master", "worker"])
def test_masters_and_workers_require_tls_with_the_secret_of_their_role_alone(
    folder: str, service: ServiceDefinition, role: str
) -> None:
    workload = named(folder, "Deployment", f"{service.name}-{role}")
    process = container(workload, role)
    settings = named(folder, "ConfigMap", process["envFrom"][0]["configMapRef"]["name"])["data"]
    paths = {name: environment(process)[name]["value"] for name in ("TLS_CA_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE")}
    (volume,) = [found for found in pod_spec(workload)["volumes"] if found["name"] == "tls"]

    assert settings["TLS_MODE"] == "require"
    assert volume["secret"]["secretName"] == f"{service.name}-{role}-tls"
    assert [found["name"] for found in containers(workload) if "tls" in mounts(found)] == [role]
    assert list(paths.values()) == [f"{mounts(process)['tls']}/{name}" for name in ("ca.crt", "tls.crt", "tls.key")]
    assert pod_spec(workload)["securityContext"]["fsGroup"] == 10001
    if role == "master":
        assert process["readinessProbe"]["httpGet"] == {"path": "/grpcz", "port": "http"}
        assert "grpc" not in process["readinessProbe"]


def test_certificates_of_cert_manager_are_those_that_pods_mount() -> None:
    text = (KUBERNETES / "components" / "tls-cert-manager" / "certificates.yaml").read_text()
    certificates = [found["spec"] for found in yaml.safe_load_all(text)]
    roles: list[tuple[ServiceDefinition, Literal["master", "worker"], str]] = [
        *((service, "master", "server auth") for service in SERVICES),
        *((service, "worker", "client auth") for service in SERVICES),
    ]

    assert {found["secretName"]: (found["dnsNames"], found["usages"][-1]) for found in certificates} == {
        f"{service.name}-{role}-tls": ([role_name(role, service.name)], usage) for service, role, usage in roles
    }


class SecretsCommand:
    """A command that makes Secrets, with a kubectl that only notes what is applied."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._kubectl = folder / "kubectl"
        self._kubectl.write_text(
            f"#!/bin/sh\ncase $2 in get) ;; apply) cat >> {folder}/applied; echo --- >> {folder}/applied ;; "
            f'*) exec {binaries.kubectl()} "$@" ;; esac\n'
        )
        self._kubectl.chmod(0o755)

    def run(self, *arguments: str) -> dict[str, dict[str, str]]:
        """The data of the Secrets that it applies."""
        (self._folder / "applied").unlink(missing_ok=True)
        subprocess.run(
            [KUBERNETES / self._name, "the0", self._folder / "kept", *arguments],
            env={"PATH": "/usr/bin:/bin", "KUBECTL": str(self._kubectl), "HOME": str(self._folder)},
            capture_output=True,
            timeout=60,
            check=True,
        )
        found = [one for one in yaml.safe_load_all((self._folder / "applied").read_text()) if one]
        assert {one["metadata"]["namespace"] for one in found} == {"the0"}
        return {one["metadata"]["name"]: one["data"] for one in found}


def test_command_makes_the_secrets_that_pods_mount_and_renews_them(tmp_path: Path) -> None:
    command = SecretsCommand("tls-secrets.sh", tmp_path)

    first, again, renewed = command.run(), command.run(), command.run("renew")

    assert first.keys() == {f"{user}-tls" for user in USERS}
    assert all(data.keys() == {"ca.crt", "tls.crt", "tls.key"} for data in first.values())
    assert again == first
    assert all(renewed[name]["tls.key"] != first[name]["tls.key"] for name in first)
    assert {data["ca.crt"] for data in renewed.values()} == {data["ca.crt"] for data in first.values()}


def test_command_makes_all_secrets_that_the_dev_overlay_names_and_completes_older_ones(tmp_path: Path) -> None:
    command = SecretsCommand("dev-secrets.sh", tmp_path)
    first = command.run()
    connections = tmp_path / "kept" / "connections.env"
    lines = connections.read_text().splitlines(keepends=True)
    older = ("nats-url-bot-runner-worker=", "mongo-uri-bot-runner-", "s3-access-key-")
    connections.write_text("".join(line for line in lines if not line.startswith(older)))

    again = command.run()

    wanted = {
        (source["name"], source["key"])
        for workload in of_kind("overlays/dev", "Deployment", "StatefulSet")
        for found in containers(workload)
        for variable in found.get("env", [])
        if (source := variable.get("valueFrom", {}).get("secretKeyRef")) and not source.get("optional")
    }
    wanted |= {
        (volume["secret"]["secretName"], item["key"])
        for deployment in of_kind("overlays/dev", "Deployment")
        for volume in pod_spec(deployment)["volumes"]
        if not volume.get("secret", {}).get("optional")
        for item in volume.get("secret", {}).get("items", [])
    }
    assert wanted <= {(name, key) for name, data in first.items() for key in data}
    assert {f"{user}-tls" for user in USERS} <= first.keys()
    assert again == first
    assert len(set(first["the0-backing-services"].values())) == len(first["the0-backing-services"])


@pytest.mark.parametrize("role", ["master", "worker"])
@each_service
def test_process_of_the_dev_overlay_sees_the_keys_of_its_role_alone(service: ServiceDefinition, role: str) -> None:
    user = f"{service.name}-{role}"
    deployment = named("overlays/dev", "Deployment", user)
    (volume,) = [found for found in pod_spec(deployment)["volumes"] if found["name"] == "connections"]

    assert {item["path"]: item["key"] for item in volume["secret"]["items"]} == {
        name: f"{name}-{user}" for name in ("mongo-uri", "nats-url", "s3-access-key", "s3-secret-key")
    }
    assert volume["secret"]["secretName"] == "the0-connections"
    assert volume["secret"]["defaultMode"] == 0o440
    # Whatever else is in that Secret, it is in no variable of the process.
    variables = environment(container(deployment, role)).values()
    assert [found for found in variables if "secretKeyRef" in found.get("valueFrom", {})] == []


@pytest.mark.parametrize("user", USERS)
def test_servers_of_the_dev_overlay_have_a_user_for_each_role(user: str) -> None:
    mongo, nats, s3 = (named("overlays/dev", "StatefulSet", name) for name in ("mongo", "nats", "s3"))
    passwords = {
        "mongo": environment(container(mongo, "users"))[password_variable("MONGO", user)],
        "nats": environment(container(nats, "nats"))[password_variable("NATS", user)],
        "s3": environment(container(s3, "users"))[s3_secret_variable(user)],
    }

    assert {name: found["valueFrom"]["secretKeyRef"] for name, found in passwords.items()} == {
        "mongo": {"name": "the0-backing-services", "key": f"mongo-password-{user}"},
        "nats": {"name": "the0-backing-services", "key": f"nats-password-{user}"},
        "s3": {"name": "the0-connections", "key": f"s3-secret-key-{user}"},
    }


def test_command_gives_each_role_the_passwords_that_the_servers_have(tmp_path: Path) -> None:
    made = SecretsCommand("dev-secrets.sh", tmp_path).run()
    backing, connections = (
        {name: b64decode(value).decode() for name, value in made[secret].items()}
        for secret in ("the0-backing-services", "the0-connections")
    )

    assert {name: connections[name] for user in USERS for name in (f"mongo-uri-{user}", f"s3-access-key-{user}")} == {
        name: value
        for user in USERS
        for name, value in (
            (f"mongo-uri-{user}", f"mongodb://{user}:{backing[f'mongo-password-{user}']}@mongo:27017/{_MONGO_OPTIONS}"),
            (f"s3-access-key-{user}", user),
        )
    }
    assert len({connections[f"s3-secret-key-{user}"] for user in USERS} | {connections["s3-secret-key"]}) == 7


@each_service
def test_only_the_autoscaler_sets_the_number_of_workers(service: ServiceDefinition) -> None:
    worker = named(f"base/{service.name}", "Deployment", f"{service.name}-worker")

    assert "replicas" not in worker["spec"]


@each_service
def test_the_master_is_reached_and_probed_on_the_services_port(service: ServiceDefinition) -> None:
    folder = f"base/{service.name}"
    master = container(named(folder, "Deployment", f"{service.name}-master"), "master")
    address = named(folder, "Service", f"{service.name}-master")

    ports = {port["name"]: port["containerPort"] for port in master["ports"]}
    assert ports == {"grpc": service.grpc_port, "http": 8080, "query": 9477}
    assert {port["name"]: port["port"] for port in address["spec"]["ports"]} == ports
    assert master["readinessProbe"]["grpc"] == {"port": service.grpc_port}
    assert master["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert selected(folder, address["spec"]["selector"]) == [f"{service.name}-master"]


@each_service
def test_masters_that_do_not_become_ready_replace_none(service: ServiceDefinition) -> None:
    master = named(f"base/{service.name}", "Deployment", f"{service.name}-master")["spec"]

    assert master["replicas"] == 2
    assert master["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


@each_service
def test_a_worker_is_probed_and_has_time_to_stop_its_bots(service: ServiceDefinition) -> None:
    worker = named(f"base/{service.name}", "Deployment", f"{service.name}-worker")

    probes = container(worker, "worker")
    assert probes["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert probes["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert pod_spec(worker)["terminationGracePeriodSeconds"] >= 30 + 30


@pytest.mark.parametrize("folder", ["overlays/dev", "overlays/production"])
def test_probe_ends_no_process_that_is_merely_slow(folder: str) -> None:
    for workload in of_kind(folder, "Deployment", "StatefulSet"):
        for found in containers(workload):
            if probe := found.get("livenessProbe"):
                assert probe["timeoutSeconds"] >= 10, found["name"]
                # Ten times the life of a lease: what does not answer for so long has lost its work already.
                assert probe["periodSeconds"] * probe["failureThreshold"] >= 60, found["name"]
            if probe := found.get("startupProbe"):
                assert probe["periodSeconds"] * probe["failureThreshold"] >= 120, found["name"]
                assert probe["timeoutSeconds"] >= 5, found["name"]


@pytest.mark.parametrize("folder", ["overlays/dev", "overlays/production"])
@each_service
def test_busy_bots_keep_no_lease_from_being_renewed(folder: str, service: ServiceDefinition) -> None:
    deployment = named(folder, "Deployment", f"{service.name}-worker")
    # A request is the weight of a container when the processors are busy, and bots have that of the engine.
    bots, worker = (millicores(container(deployment, name)) for name in ("engine", "worker"))

    assert worker * 4 >= bots
    for server in of_kind(folder, "StatefulSet"):
        assert millicores(containers(server)[0]) >= bots


def millicores(found: dict[str, Any]) -> int:
    text = str(found["resources"]["requests"]["cpu"])
    return int(text[:-1]) if text.endswith("m") else int(text) * 1000


@each_service
def test_worker_and_engine_share_the_socket_and_see_the_work_folder_at_one_path(service: ServiceDefinition) -> None:
    deployment = named(f"base/{service.name}", "Deployment", f"{service.name}-worker")
    worker, engine = container(deployment, "worker"), container(deployment, "engine")
    socket = environment(worker)["DOCKER_HOST"]["value"]

    assert f"--host={socket}" in engine["args"]
    assert socket.startswith(f"unix://{mounts(worker)['engine-socket']}/")
    assert mounts(worker)["engine-socket"] == mounts(engine)["engine-socket"]
    assert mounts(worker)["work"] == mounts(engine)["work"] == environment(worker)["TEMP_DIR"]["value"]
    assert mounts(worker)["keepalive"] == mounts(engine)["keepalive"] == environment(worker)["KEEPALIVE_DIR"]["value"]
    specs = Path(environment(worker)["SPEC_DIR"]["value"])
    assert mounts(worker)["specs"] == mounts(engine)["specs"] == str(specs.parent)
    # A sidecar: started before the worker, ended after it.
    assert engine["restartPolicy"] == "Always"


@each_service
def test_socket_of_the_engine_has_a_group_that_the_worker_has_for_nothing_else(service: ServiceDefinition) -> None:
    deployment = named(f"base/{service.name}", "Deployment", f"{service.name}-worker")
    security, worker = pod_spec(deployment)["securityContext"], container(deployment, "worker")["securityContext"]
    [group] = security["supplementalGroups"]

    assert f"--group={group}" in container(deployment, "engine")["args"]
    assert group not in (security["fsGroup"], worker["runAsGroup"])
    assert group not in UserRange()


@pytest.mark.parametrize("folder", OVERLAYS)
def test_no_volume_of_the_engine_hides_the_work_folder(folder: str) -> None:
    # The entry point of docker:28-dind mounts a tmpfs on /tmp.
    for service in SERVICES:
        worker = container(named(folder, "Deployment", f"{service.name}-worker"), "worker")
        variables = environment(worker)
        assert variables["TEMP_DIR"]["value"] == mounts(worker)["work"] == "/var/lib/the0"
        assert not Path(variables["KEEPALIVE_DIR"]["value"]).is_relative_to("/tmp")


@pytest.mark.parametrize("folder", ["overlays/dev", "overlays/production"])
@each_service
def test_memory_of_bots_engine_and_container_fit_together(folder: str, service: ServiceDefinition) -> None:
    deployment = named(folder, "Deployment", f"{service.name}-worker")
    engine, worker = container(deployment, "engine"), container(deployment, "worker")
    settings = named(folder, "ConfigMap", worker["envFrom"][0]["configMapRef"]["name"])["data"]
    memory = {kind: mebibytes(engine["resources"][kind]["memory"]) for kind in ("requests", "limits")}
    bots = int(settings["ENGINE_MEMORY_MB"])

    # The engine itself needs the rest: engine.sh refuses to start it with less.
    assert bots + 512 <= memory["limits"]
    assert memory["requests"] <= memory["limits"]
    assert int(settings["MEMORY_LIMIT_MB"]) <= bots
    variables = environment(engine)
    assert variables["ENGINE_MEMORY_MB"]["valueFrom"]["configMapKeyRef"] == {
        "name": worker["envFrom"][0]["configMapRef"]["name"],
        "key": "ENGINE_MEMORY_MB",
        "optional": True,
    }
    limit = variables["ENGINE_LIMIT_MB"]["valueFrom"]["resourceFieldRef"]
    assert (limit["containerName"], limit["resource"], limit["divisor"]) == ("engine", "limits.memory", "1Mi")


def mebibytes(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]


@pytest.mark.parametrize("folder", ["overlays/dev", "overlays/production"])
@each_service
def test_engine_is_started_by_its_script_and_workers_verify_the_groups_of_bots(
    folder: str, service: ServiceDefinition
) -> None:
    deployment = named(folder, "Deployment", f"{service.name}-worker")
    engine, worker = container(deployment, "engine"), container(deployment, "worker")
    volumes = {volume["name"]: volume for volume in pod_spec(deployment)["volumes"]}
    script = named(folder, "ConfigMap", volumes["engine-script"]["configMap"]["name"])["data"]

    assert engine["command"] == ["sh", f"{mounts(engine)['engine-script']}/engine.sh"]
    assert 'exec dockerd-entrypoint.sh "$@"' in script["engine.sh"]
    assert environment(worker)["POD_UID"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


@each_service
def test_engine_loads_the_images_that_its_node_keeps_before_its_worker_starts(service: ServiceDefinition) -> None:
    folder = f"base/{service.name}"
    deployment = named(folder, "Deployment", f"{service.name}-worker")
    engine, worker = container(deployment, "engine"), container(deployment, "worker")
    volumes = {volume["name"]: volume for volume in pod_spec(deployment)["volumes"]}
    settings = named(folder, "ConfigMap", worker["envFrom"][0]["configMapRef"]["name"])
    assert environment(engine)["IMAGE_CACHE_DIR"]["value"] == mounts(engine)["image-cache"]
    assert volumes["image-cache"]["hostPath"]["type"] == "DirectoryOrCreate"
    assert "image-cache" not in mounts(worker)
    assert "/run/images-loaded" in engine["startupProbe"]["exec"]["command"][-1]
    # The names by which it looks for images are those that the worker uses.
    for name in ("PYTHON311_IMAGE", "NODEJS20_IMAGE"):
        source = environment(engine)[name]["valueFrom"]["configMapKeyRef"]
        assert source == {"name": settings["metadata"]["name"], "key": name, "optional": True}


def test_masters_and_workers_of_production_come_before_other_pods() -> None:
    (priority,) = of_kind("overlays/production", "PriorityClass")

    # Not by default: other pods of the cluster keep their priority.
    assert "globalDefault" not in priority
    assert priority["value"] > 0
    pods = [pod_spec(deployment) for deployment in of_kind("overlays/production", "Deployment")]
    assert {pod["priorityClassName"] for pod in pods} == {priority["metadata"]["name"]}
    assert len(pods) == 2 * len(SERVICES)


@each_service
def test_component_of_older_copies_of_overlays_changes_nothing(service: ServiceDefinition, tmp_path: Path) -> None:
    path = os.path.relpath(KUBERNETES, tmp_path.resolve())
    overlay = {"resources": [f"{path}/base/{service.name}"], "components": [f"{path}/components/image-cache"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))

    assert rendered(str(tmp_path.resolve())) == rendered(f"base/{service.name}")


@each_service
def test_worker_with_the_nodes_socket_has_no_engine_and_uses_a_folder_of_the_node(service: ServiceDefinition) -> None:
    deployment = named("overlays/node-socket", "Deployment", f"{service.name}-worker")
    worker = container(deployment, "worker")
    volumes = {volume["name"]: volume for volume in pod_spec(deployment)["volumes"]}

    assert "engine" not in [found["name"] for found in containers(deployment)]
    assert "POD_UID" not in environment(worker)
    assert environment(worker)["DOCKER_HOST"]["value"] == f"unix://{mounts(worker)['engine-socket']}"
    assert volumes["engine-socket"]["hostPath"]["type"] == "Socket"
    assert volumes["work"]["hostPath"]["path"] == mounts(worker)["work"] == environment(worker)["TEMP_DIR"]["value"]
    in_memory = environment(worker)["KEEPALIVE_DIR"]["value"]
    assert volumes["keepalive"]["hostPath"]["path"] == mounts(worker)["keepalive"] == str(Path(in_memory).parent)
    assert Path(environment(worker)["SPEC_DIR"]["value"]).parent == Path(in_memory).parent
    assert set(mounts(worker)) == set(volumes)


@each_folder
def test_a_second_apply_changes_nothing(folder: str) -> None:
    # The API server drops empty values of variables and fills in claims of volumes, and the operator's CRD fills in the
    # action: kubectl would see a difference each time.
    for workload in of_kind(folder, "Deployment", "StatefulSet"):
        for found in containers(workload):
            assert [name for name, variable in environment(found).items() if variable.get("value") == ""] == []
    for workload in of_kind(folder, "StatefulSet"):
        for claim in workload["spec"]["volumeClaimTemplates"]:
            assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
            assert (claim["spec"]["volumeMode"], claim["status"]) == ("Filesystem", {"phase": "Pending"})
    for monitor in of_kind(folder, "ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            assert {relabeling["action"] for relabeling in endpoint["relabelings"]} == {"replace"}


@each_folder
def test_every_image_has_a_tag_and_present_images_of_the_runtime_are_not_pulled(folder: str) -> None:
    for workload in of_kind(folder, "Deployment", "StatefulSet"):
        for found in containers(workload):
            assert re.search(r":[\w.-]+(@sha256:[0-9a-f]{64})?$", found["image"]), found["image"]
            if "the0/" in found["image"]:
                assert found["imagePullPolicy"] == "IfNotPresent"


@pytest.mark.parametrize("folder", ["overlays/production", "overlays/node-socket"])
def test_production_pulls_versioned_images_from_a_registry(folder: str) -> None:
    ours = {
        found["image"]
        for workload in of_kind(folder, "Deployment")
        for found in containers(workload)
        if "the0/" in found["image"]
    }

    assert ours == {f"registry.example.com/the0/{service.name}:1.0.0" for service in SERVICES}


@each_folder
def test_address_of_s3_is_an_existing_service_or_an_external_host(folder: str) -> None:
    services = {service["metadata"]["name"] for service in of_kind(folder, "Service")}
    settings = [
        found["data"] for found in of_kind(folder, "ConfigMap") if found["metadata"]["name"].find("-settings-") > 0
    ]

    assert settings
    for one in settings:
        host = one["MINIO_ENDPOINT"].partition(":")[0]
        assert host in services or "." in host
        assert one["MINIO_USE_SSL"] == ("false" if host in services else "true")


def test_probe_of_mongodb_uses_its_shell_only_at_the_start_and_no_command_line_has_the_password() -> None:
    mongo = container(named("overlays/dev", "StatefulSet", "mongo"), "mongo")

    assert mongo["readinessProbe"]["tcpSocket"] == {"port": "mongo"}
    assert "livenessProbe" not in mongo
    shell, *arguments = mongo["startupProbe"]["exec"]["command"]
    assert shell == "mongosh"
    # As the shell's own script reads it, from its environment: no program puts it on a command line.
    assert "process.env.MONGO_INITDB_ROOT_PASSWORD" in arguments[-1]
    assert not any("$" in argument or argument in ("-p", "--password") for argument in arguments)
    assert mongo["startupProbe"]["failureThreshold"] * mongo["startupProbe"]["periodSeconds"] >= 300


def test_the_s3_server_is_started_where_its_image_has_it() -> None:
    s3 = container(named("overlays/dev", "StatefulSet", "s3"), "s3")

    assert s3["image"].partition("@")[0] == "versity/versitygw:v1.8.0"
    assert s3["command"][0] == "/usr/local/bin/versitygw"


@each_service
def test_runbook_requires_the_access_that_the_role_grants(service: ServiceDefinition) -> None:
    text = " ".join((ROOT / "deploy" / "RUNBOOK.md").read_text().split())
    ((verb, group, subresource, account),) = re.findall(
        r"auth can-i (\w+) (\S+) --subresource=(\w+) --as=system:serviceaccount:NAMESPACE:([\w-]+)", text
    )
    role = named(f"base/{service.name}", "Role", f"{service.name}-autoscaler")
    (binding,) = of_kind(f"base/{service.name}", "RoleBinding")
    resource, name = group.split("/")

    assert f"{resource}/{subresource}" in role["rules"][0]["resources"]
    assert verb in role["rules"][0]["verbs"]
    assert role["rules"][0]["resourceNames"] == [name.replace("SERVICE", service.name)]
    assert binding["subjects"][0]["name"] == account.replace("SERVICE", service.name)


@each_service
def test_workers_are_evicted_one_at_a_time(service: ServiceDefinition) -> None:
    folder = f"base/{service.name}"
    budget = named(folder, "PodDisruptionBudget", f"{service.name}-worker")

    assert budget["spec"]["maxUnavailable"] == 1
    # One that is not ready runs nothing that an eviction could disturb.
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert selected(folder, budget["spec"]["selector"]["matchLabels"]) == [f"{service.name}-worker"]


@each_service
@pytest.mark.parametrize("folder", ["base", "overlays/dev"])
def test_masters_are_evicted_one_at_a_time_also_where_there_is_one(service: ServiceDefinition, folder: str) -> None:
    folder = f"base/{service.name}" if folder == "base" else folder
    budget = named(folder, "PodDisruptionBudget", f"{service.name}-master")

    # Unlike minAvailable: 1, it lets the node of a single master be drained.
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert selected(folder, budget["spec"]["selector"]["matchLabels"]) == [f"{service.name}-master"]


@each_service
@pytest.mark.parametrize("role", ["master", "worker"])
def test_new_pods_are_spread_over_nodes_and_leave_a_lost_node_soon(service: ServiceDefinition, role: str) -> None:
    spec = pod_spec(named(f"base/{service.name}", "Deployment", f"{service.name}-{role}"))

    (spread,) = spec["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    # Those of the last rollout apart, which would be counted where they leave.
    assert spread["matchLabelKeys"] == ["pod-template-hash"]
    assert spread["labelSelector"]["matchLabels"].items() <= pod_labels(service, role).items()
    assert {(found["key"], found["effect"], found["tolerationSeconds"]) for found in spec["tolerations"]} == {
        ("node.kubernetes.io/not-ready", "NoExecute", 10),
        ("node.kubernetes.io/unreachable", "NoExecute", 10),
    }


def pod_labels(service: ServiceDefinition, role: str) -> dict[str, str]:
    deployment = named(f"base/{service.name}", "Deployment", f"{service.name}-{role}")
    return dict(deployment["spec"]["template"]["metadata"]["labels"])


@each_service
def test_every_pod_has_a_network_policy_and_masters_accept_only_their_own_workers(service: ServiceDefinition) -> None:
    folder = "overlays/production"
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(folder, "NetworkPolicy")}
    master, worker = policies[f"{service.name}-master"], policies[f"{service.name}-worker"]

    assert selected(folder, master["podSelector"]["matchLabels"]) == [f"{service.name}-master"]
    assert selected(folder, worker["podSelector"]["matchLabels"]) == [f"{service.name}-worker"]
    callers = master["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert selected(folder, callers) == [f"{service.name}-worker"]
    assert master["policyTypes"] == worker["policyTypes"] == ["Ingress", "Egress"]


@each_service
def test_workers_accept_requests_of_their_own_masters_and_of_prometheus_only(
    service: ServiceDefinition,
) -> None:
    folder = "overlays/production"
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(folder, "NetworkPolicy")}
    master, worker = policies[f"{service.name}-master"], policies[f"{service.name}-worker"]

    (rule,) = worker["ingress"]
    assert [set(caller) for caller in rule["from"]] == [{"namespaceSelector"}, {"podSelector"}]
    assert selected(folder, rule["from"][1]["podSelector"]["matchLabels"]) == [f"{service.name}-master"]
    asked = [rule for rule in master["egress"] if "to" in rule]
    assert [[selected(folder, peer["podSelector"]["matchLabels"]) for peer in rule["to"]] for rule in asked] == [
        [[f"{service.name}-worker"], [f"{service.name}-master"]]
    ]


@each_service
def test_masters_may_ask_the_leader_of_their_own_service(service: ServiceDefinition) -> None:
    policy = named("overlays/production", "NetworkPolicy", f"{service.name}-master")["spec"]

    (rule,) = [
        rule
        for rule in policy["ingress"]
        for peer in rule["from"]
        if selected("overlays/production", peer.get("podSelector", {}).get("matchLabels", {}))
        == [f"{service.name}-master"]
    ]
    assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]


@each_service
def test_namespaces_with_a_label_reach_the_query_port_of_masters_and_no_other_port(service: ServiceDefinition) -> None:
    policy = named("overlays/production", "NetworkPolicy", f"{service.name}-master")["spec"]

    caller = {"namespaceSelector": {"matchLabels": {"the0/asks-queries": "true"}}}
    rules = [rule["ports"] for rule in policy["ingress"] if caller in rule["from"]]
    assert rules == [[{"protocol": "TCP", "port": "query"}]]


METADATA = [
    "169.254.169.254",  # AWS, Azure, GCP and most others
    "169.254.170.2",  # credentials of AWS's containers
    "168.63.129.16",  # Azure
    "100.100.100.200",  # Alibaba
    "192.0.0.192",  # Oracle
    "fd00:ec2::254",  # AWS
    "fd20:ce::254",  # GCP
    "fd00:c1::a9fe:a9fe",  # Oracle
    "fe80::1",
]


@each_service
@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("port", [53, 80, 443])
def test_bots_cannot_reach_the_clouds_metadata_service(service: ServiceDefinition, address: str, port: int) -> None:
    policy = named(f"base/{service.name}", "NetworkPolicy", f"{service.name}-worker")

    assert not permits_egress(policy, address, port)


@each_service
@pytest.mark.parametrize(("address", "port"), [("93.184.215.14", 443), ("2606:2800::1", 8080), ("10.0.0.7", 27017)])
def test_bots_reach_any_other_address(service: ServiceDefinition, address: str, port: int) -> None:
    policy = named(f"base/{service.name}", "NetworkPolicy", f"{service.name}-worker")

    assert permits_egress(policy, address, port)


@each_service
@pytest.mark.parametrize("role", ["master", "worker"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_names_are_resolved_by_a_cache_on_the_node_and_it_answers_nothing_else(
    service: ServiceDefinition, role: str, protocol: str
) -> None:
    policy = named(f"base/{service.name}", "NetworkPolicy", f"{service.name}-{role}")

    assert permits_egress(policy, "169.254.20.10", 53, protocol)
    assert not permits_egress(policy, "169.254.20.10", 8080, protocol)


@each_service
@pytest.mark.parametrize("port", [443, 6443, 8443, 16443])
def test_masters_reach_the_api_server_on_each_usual_port(service: ServiceDefinition, port: int) -> None:
    policy = named(f"base/{service.name}", "NetworkPolicy", f"{service.name}-master")

    assert permits_egress(policy, "10.0.0.1", port)


@each_service
def test_prometheus_finds_masters_and_workers_also_when_they_are_not_ready(service: ServiceDefinition) -> None:
    folder = "overlays/production"
    monitor = named(folder, "ServiceMonitor", service.name)
    metrics = named(folder, "Service", f"{service.name}-metrics")
    (endpoint,) = monitor["spec"]["endpoints"]

    assert monitor["spec"]["selector"]["matchLabels"].items() <= metrics["metadata"]["labels"].items()
    assert metrics["spec"]["publishNotReadyAddresses"] is True
    assert selected(folder, metrics["spec"]["selector"]) == [f"{service.name}-master", f"{service.name}-worker"]
    assert (endpoint["port"], endpoint["path"]) == (metrics["spec"]["ports"][0]["name"], "/metrics")


def test_the_fields_of_a_service_monitor_are_those_of_the_operators_api() -> None:
    # Its schema comes with the operator and with no package index: the fields that are used, by hand.
    spec_fields = {"selector", "podTargetLabels", "endpoints"}
    endpoint_fields = {"port", "path", "interval", "scrapeTimeout", "relabelings"}
    for monitor in of_kind("overlays/production", "ServiceMonitor"):
        assert monitor["spec"].keys() <= spec_fields
        assert all(endpoint.keys() <= endpoint_fields for endpoint in monitor["spec"]["endpoints"])


def test_a_service_can_be_deployed_by_itself() -> None:
    names = {document["metadata"]["name"] for document in rendered(f"base/{BOT_RUNNER.name}")}

    assert all(name.startswith(f"{BOT_RUNNER.name}-") for name in names)


@pytest.mark.parametrize(
    ("folder", "service"),
    [(f"base/{service.name}", service) for service in SERVICES]
    + [(overlay, service) for overlay in OVERLAYS for service in SERVICES],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
@pytest.mark.parametrize("role", ["master", "worker"])
def test_every_variable_of_a_process_is_one_of_its_settings(
    folder: str, service: ServiceDefinition, role: str, tmp_path: Path
) -> None:
    found = container(named(folder, "Deployment", f"{service.name}-{role}"), role)
    settings = named(folder, "ConfigMap", found["envFrom"][0]["configMapRef"]["name"])["data"]
    # What the cluster fills in, as it may look.
    (tmp_path / "http-token").write_text("filled-in-by-the-cluster")
    (tmp_path / "mongo-uri").write_text("mongodb://user:secret@mongo:27017/?replicaSet=rs0")
    for key in ("s3-access-key", "s3-secret-key"):
        (tmp_path / key).write_text("filled-in")
    variables = {
        name: re.sub("^/var/run/secrets/(connections|access)", str(tmp_path), variable.get("value", "filled-in"))
        for name, variable in environment(found).items()
    }

    assert unknown_variables(settings | variables, service) == set()
    load_everything(settings | variables, service)

"""The manifests and the pods of bots as pods: valid by the API's own schemas, and as safe as they say."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from libs.core.room import MIB
from libs.docker_runner.executable import CodeRef, Entrypoint, Executable, Limits, Network, Placement
from libs.docker_runner.pods.manifest import PodRules, pod, pod_view
from libs.docker_runner.sandbox.container_spec import Paths, container_body
from libs.docker_runner.settings import RunnerSettings
from libs.docker_runner.state.folder import StateFolder
from tests.deploy.manifests import container, environment, named, of_kind, pod_spec, rendered

FOLDERS = ["bots", "overlays/pods"]
VERSIONS = ["1.30", "1.37"]
KEY = bytes(range(32))
RULES = PodRules(
    runtime_class="gvisor",
    priority_class="bots",
    node_selector={"pool": "bots"},
    tolerations=({"key": "bots", "operator": "Exists"},),
    pull_secrets=("registry",),
)


def body(**more: Any) -> dict[str, Any]:
    executable = Executable(
        id="a bot/with any id",
        service="bot-runner",
        scope="s",
        runtime="python3.11",
        entrypoint=Entrypoint.BOT,
        script="main.py",
        code=CodeRef("bots", "k"),
        placement=Placement("python:3.11-slim", Network.CLUSTER, None),
        limits=Limits(256 * MIB, cpus=0.5),
        segment=3,
        epoch=7,
        run_id="r1",
        **more,
    )
    paths = Paths(Path("/c"), Path("/s"), Path("/o"), Path("/e"), state=StateFolder(Path("/state"), "t"))
    settings = RunnerSettings(temp_dir=Path("/t"), network=Network.CLUSTER)
    return container_body(
        executable, paths=paths, code_etag="e", token="t", user=31_000, attachment=None, settings=settings
    )


def described(**more: Any) -> dict[str, Any]:
    return pod("the0-bot-runner-0123", body(**more), KEY, RULES)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("version", VERSIONS)
def test_objects_have_only_fields_of_the_api(folder: str, version: str) -> None:
    for document in rendered(folder):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_pod_has_only_fields_of_the_api(version: str) -> None:
    kubernetes_validate.validate(described(), version, strict=True)


def test_pod_passes_the_restricted_standard_and_has_nothing_of_ours() -> None:
    spec = described()["spec"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {tuple(set(volume) - {"name"}) for volume in spec["volumes"]} == {("emptyDir",)}
    for one in (*spec["initContainers"], *spec["containers"]):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_pod_has_the_limits_of_the_bot_and_the_settings_of_the_operator() -> None:
    spec = described()["spec"]
    (bot,) = spec["containers"]

    assert bot["resources"]["limits"]["memory"] == str(256 * MIB)
    assert bot["resources"]["limits"]["cpu"] == "500m"
    assert "ephemeral-storage" in bot["resources"]["limits"]
    assert (spec["runtimeClassName"], spec["priorityClassName"]) == ("gvisor", "bots")
    assert (spec["nodeSelector"], spec["imagePullSecrets"]) == ({"pool": "bots"}, [{"name": "registry"}])
    assert spec["tolerations"] == [{"key": "bots", "operator": "Exists"}]


def test_variable_of_a_bot_is_not_expanded_by_the_kubelet() -> None:
    (bot,) = described(environment={"X": "$(THE0_LINK_KEY)"})["spec"]["containers"]

    assert {"name": "X", "value": "$$(THE0_LINK_KEY)"} in bot["env"]


def test_created_pod_is_read_as_the_container_that_was_described() -> None:
    document = described()
    document["metadata"]["uid"] = "u"
    view = pod_view(document)

    assert view is not None
    assert (view.container.id, view.container.segment, view.container.epoch) == ("a bot/with any id", 3, 7)
    assert (view.container.run_id, view.key, view.uid) == ("r1", KEY, "u")
    assert document["metadata"]["labels"]["the0.app/bot-id"] == "a-bot-with-any-id"


@pytest.mark.parametrize(
    ("status", "problem", "is_final"),
    [
        ({"phase": "Failed", "reason": "Evicted", "message": "disk"}, "evicted by its node: disk", True),
        (
            {"containerStatuses": [{"image": "x", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
            "image 'x' cannot be pulled",
            True,
        ),
        (
            {"conditions": [{"type": "PodScheduled", "reason": "Unschedulable", "message": "0/1 nodes"}]},
            "no node has room: 0/1 nodes",
            False,
        ),
        ({"phase": "Running"}, "", False),
    ],
)
def test_reason_why_a_pod_does_not_run_is_read_from_its_status(
    status: dict[str, Any], problem: str, is_final: bool
) -> None:
    document = described()
    document["metadata"]["uid"] = "u"
    view = pod_view({**document, "status": status})

    assert view is not None
    assert view.problem.startswith(problem)
    assert (bool(view.problem), view.problem_is_final) == (bool(problem), is_final)


def test_workers_may_use_pods_of_the_bots_namespace_and_nothing_else() -> None:
    (role,) = of_kind("bots", "Role")
    (binding,) = of_kind("bots", "RoleBinding")
    verbs = ["get", "list", "watch", "create", "delete"]

    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]
    assert [subject["name"] for subject in binding["subjects"]] == ["bot-runner-worker"]
    roles = of_kind("overlays/pods", "RoleBinding", "ClusterRoleBinding")
    assert not [one for one in roles if "worker" in str(one["subjects"])]


def test_bots_namespace_enforces_restricted_and_so_does_the_runtimes() -> None:
    for folder in FOLDERS:
        (namespace,) = of_kind(folder, "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_worker_brings_no_engine_and_has_its_token() -> None:
    worker = named("overlays/pods", "Deployment", "bot-runner-worker")
    spec = pod_spec(worker)

    assert "initContainers" not in spec
    assert spec["automountServiceAccountToken"] is True
    assert [volume for volume in spec["volumes"] if "hostPath" in volume] == []
    variables = environment(container(worker, "worker"))
    assert variables["ENGINE"]["value"] == "kubernetes"
    assert "DOCKER_HOST" not in variables


def test_bots_are_reached_by_workers_alone_and_reach_no_private_address() -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("bots", "NetworkPolicy")}

    assert policies["closed"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (ingress,) = policies["public"]["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": RULES.port}]
    labels = described()["metadata"]["labels"]
    assert policies["public"]["podSelector"]["matchLabels"].items() <= labels.items()
    blocks = [to["ipBlock"] for rule in policies["public"]["egress"] for to in rule.get("to", []) if "ipBlock" in to]
    (public,) = [block for block in blocks if block["cidr"] == "0.0.0.0/0"]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(public["except"])

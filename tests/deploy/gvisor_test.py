"""The component that gives the engine of worker pods gVisor, and starts bots with it."""

import os
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from libs.core.process.service import SERVICES, ServiceDefinition
from tests.deploy.kubernetes_test import API_VERSIONS
from tests.deploy.manifests import KUBERNETES, container, environment, named, pod_spec
from tests.deploy.settings_in_use import load_everything

each_service = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)


def overlay(folder: Path, service: ServiceDefinition) -> str:
    """An overlay with the service's base and the component; its folder."""
    root = folder.resolve()
    described = {
        "resources": [os.path.relpath(KUBERNETES / "base" / service.name, root)],
        "components": [os.path.relpath(KUBERNETES / "components" / "gvisor", root)],
        "images": [{"name": "the0/engine-gvisor", "newName": "registry.example.com/engine", "newTag": "1.0.0"}],
    }
    (root / "kustomization.yaml").write_text(yaml.safe_dump(described))
    return str(root)


@each_service
def test_engine_has_the_runtime_and_workers_start_bots_with_it(service: ServiceDefinition, tmp_path: Path) -> None:
    worker = named(overlay(tmp_path, service), "Deployment", f"{service.name}-worker")
    before = named(f"base/{service.name}", "Deployment", f"{service.name}-worker")
    engine = container(worker, "engine")

    assert engine["image"] == "registry.example.com/engine:1.0.0"
    assert engine["args"] == [*container(before, "engine")["args"], "--add-runtime=runsc=/usr/local/bin/runsc"]
    assert engine["securityContext"]["privileged"] is True
    variables = environment(container(worker, "worker"))
    assert variables["CONTAINER_RUNTIME"] == {"name": "CONTAINER_RUNTIME", "value": "runsc"}
    assert variables.keys() == environment(container(before, "worker")).keys() | {"CONTAINER_RUNTIME"}
    # The pod itself runs on the node's own kernel, since the engine is privileged.
    assert "runtimeClassName" not in pod_spec(worker)


@each_service
def test_workers_know_the_setting_and_the_api_the_fields(service: ServiceDefinition, tmp_path: Path) -> None:
    worker = named(overlay(tmp_path, service), "Deployment", f"{service.name}-worker")

    for version in API_VERSIONS:
        kubernetes_validate.validate(worker, version, strict=True)
    s3 = {"MINIO_ACCESS_KEY_ID": "key", "MINIO_SECRET_ACCESS_KEY": "secret"}
    load_everything({"MONGO_URI": "mongodb://mongo/", **s3, "CONTAINER_RUNTIME": "runsc"}, service)

"""Settings of bots as pods of a Kubernetes cluster."""

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from libs.core.config.settings_loader import Group, Named

_NAME = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
    if any(not name or not equals for name, equals, _ in pairs):
        raise ValueError("it must be name=value, separated by commas")
    return tuple((name, text) for name, _, text in pairs)


def _names(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _tolerations(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError("it must be a list of objects")
    return tuple(found)


class PodSettings(Group):
    """What runs the bots: a Docker engine, or the cluster that the worker is in."""

    engine: Annotated[
        Literal["docker", "kubernetes"],
        Named("ENGINE"),
        Field(description="what runs bots: a Docker engine, or a Kubernetes cluster, with a pod for each bot"),
    ] = "docker"
    namespace: Annotated[
        str,
        Named("BOTS_NAMESPACE", allowed="the name of a namespace"),
        Field(pattern=_NAME, max_length=63, description="namespace of the bots' pods, with ENGINE=kubernetes"),
    ] = "the0-bots"
    init_image: Annotated[
        str,
        Named("POD_INIT_IMAGE", allowed="the name of an image, with @sha256:… to pin it"),
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$",
            description="image that has the bots' first process, /the0-init, with ENGINE=kubernetes",
        ),
    ] = "the0/init"
    port: Annotated[
        int,
        Named("POD_PORT"),
        Field(ge=1024, le=65535, description="port on which the first process of a pod serves its worker"),
    ] = 9478
    runtime_class: Annotated[
        str | None,
        Named("RUNTIME_CLASS", allowed="the name of a RuntimeClass, such as gvisor"),
        Field(pattern=_NAME, description="RuntimeClass of the bots' pods; unset: that of the cluster"),
    ] = None
    priority_class: Annotated[
        str | None,
        Named("POD_PRIORITY_CLASS", allowed="the name of a PriorityClass"),
        Field(pattern=_NAME, description="PriorityClass of the bots' pods; unset: that of the cluster"),
    ] = None
    node_selector: Annotated[
        tuple[tuple[str, str], ...],
        Named("POD_NODE_SELECTOR", allowed="label=value, separated by commas"),
        Field(description="labels of the nodes that may run bots"),
        BeforeValidator(_pairs),
    ] = ()
    tolerations: Annotated[
        tuple[dict[str, Any], ...],
        Named("POD_TOLERATIONS", allowed="a JSON list of tolerations"),
        Field(description="taints of nodes that the bots' pods tolerate"),
        BeforeValidator(_tolerations),
    ] = ()
    pull_secrets: Annotated[
        tuple[str, ...],
        Named("POD_PULL_SECRETS", allowed="names, separated by commas"),
        Field(description="Secrets of BOTS_NAMESPACE with credentials for pulling images"),
        BeforeValidator(_names),
    ] = ()

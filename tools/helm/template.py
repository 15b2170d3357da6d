"""The template of a service, made of the objects that Kustomize renders for all three."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from libs.core.process.service import ServiceDefinition

Manifest = dict[str, Any]

_WIDTH = 100_000
"""No line of the template is folded: an expression must not be cut."""
_BEGIN = "{{- range $name, $service := .Values.services }}\n{{- if $service.enabled }}\n"
_END = "{{- end }}\n{{- end }}\n"
_CLUSTER_WIDE = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ClusterRole", "ClusterRoleBinding")
_HASH = r"-[0-9a-z]{10}$"

# What stands in the objects for what Helm fills in: an expression, a field that is left out while its value is empty,
# and further items of a list. None of them needs quotes in YAML.
_EXPRESSION = re.compile(r"<<([^*?].*?)>>")
_OPTIONAL = re.compile(r"^( *)<<\?(\w+) (.+?)>>: null$", re.MULTILINE)
_ITEMS = re.compile(r"^( *)- <<\*(.+?)>>$", re.MULTILINE)


_IMAGE = '<<include "the0.image" (dict "root" $ "name" $name)>>'
_SCRIPT = '$.Files.Get "files/engine.sh"'
_TLS = 'include "the0.tls.{}" (dict "root" $ "name" $name "component" "{}") | fromJsonArray'
"""Further items of a list with TLS, as the component tls has them."""
_PROBE = 'include "the0.probe.{}" (dict "root" $ "port" $service.port) | fromJson'
_SETTINGS = '<<include "the0.settings" (dict "root" $ "service" $service)>>'


class ChartError(ValueError):
    """The base is not as the chart needs it; the message says where."""


def service_template(rendered: Mapping[ServiceDefinition, Sequence[Manifest]]) -> str:
    """Return the template of each enabled service.

    Args:
        rendered: the objects of each service's folder in the base.

    Raises:
        ChartError: the services differ in more than name, port and settings, or a text has braces that Helm would read.
    """
    (first, template), *others = ((service, _general(service, documents)) for service, documents in rendered.items())
    for service, other in others:
        for mine, theirs in zip(template, other, strict=True):
            if mine != theirs:
                raise ChartError(f"{mine['kind']} of {service.name} is not like that of {first.name}")
    texts = [yaml.safe_dump(document, sort_keys=False, width=_WIDTH) for document in template]
    return _BEGIN + "".join(f"---\n{_as_template(text)}" for text in texts) + _END


def _general(service: ServiceDefinition, documents: Sequence[Manifest]) -> list[Manifest]:
    """The objects of a service with expressions in place of its name, its port and what values set."""

    def general(value: Any) -> Any:
        if isinstance(value, str):
            if "{{" in value or "<<" in value:
                raise ChartError(f"{service.name}: Helm would read an expression in {value!r}")
            value = re.sub(f"^({service.name}-(?:settings|engine)){_HASH}", r"\1", value)
            return value.replace(f"the0/{service.name}:latest", _IMAGE).replace(service.name, "<<$name>>")
        if isinstance(value, int) and not isinstance(value, bool) and value == service.grpc_port:
            return "<<int $service.port>>"
        return value

    return [_with_values(_mapped(document, general)) for document in documents]


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of *value* with all that is neither a mapping nor a list changed; keys stay."""
    if isinstance(value, dict):
        return {key: _mapped(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_mapped(each, change) for each in value]
    return change(value)


def _with_values(document: Manifest) -> Manifest:
    """The object with expressions in place of what values set."""
    kind, metadata = document["kind"], document["metadata"]
    if kind in _CLUSTER_WIDE:
        document = _of_the_release(document)
    if "subjects" in document:
        # Kustomize sets the namespace of the overlay.
        subjects = [subject | {"namespace": "<<$.Release.Namespace>>"} for subject in document["subjects"]]
        return document | {"subjects": subjects}
    if kind == "ConfigMap" and metadata["name"].endswith("-settings"):
        return document | {"data": _SETTINGS}
    if kind == "ConfigMap":
        return document | {"data": {"engine.sh": f"<<toJson ({_SCRIPT})>>"}}
    if kind == "NetworkPolicy":
        return dict(_replaced(document, "monitoring", "<<quote $.Values.monitoring.namespace>>"))
    if kind == "Deployment":
        return _deployment(_replaced(document, "the0-connections", "<<quote $.Values.connections.secretName>>"))
    return document


def _of_the_release(document: Manifest) -> Manifest:
    """An object without namespace, under a name that no other release has: Helm lets only one own it."""
    old = document["metadata"]["name"]
    return dict(_replaced(document, old, f"<<$.Release.Namespace>>-{old}"))


def _deployment(document: Manifest) -> Manifest:
    """The Deployment of a service's masters or workers."""
    component = document["metadata"]["labels"]["app.kubernetes.io/component"]
    values = f"$.Values.{component}s"
    spec, pod = document["spec"], document["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    container = container | {
        "imagePullPolicy": "<<$.Values.image.pullPolicy>>",
        "resources": f"<<toJson {values}.resources>>",
        "env": [*container["env"], f"<<*{_TLS.format('env', component)}>>"],
        "volumeMounts": [*container["volumeMounts"], f"<<*{_TLS.format('mounts', component)}>>"],
    }
    if component == "master":
        container["readinessProbe"] = _without_or_with_tls(container["readinessProbe"])
    optional = {f"<<?{name} {values}.{name}>>": None for name in ("nodeSelector", "priorityClassName")}
    pod = pod | {"containers": [container], **optional, "<<?imagePullSecrets $.Values.image.pullSecrets>>": None}
    pod["volumes"] = [*pod["volumes"], f"<<*{_TLS.format('volumes', component)}>>"]
    pod["tolerations"] = [*pod["tolerations"], f"<<*{values}.tolerations>>"]
    annotations = {"checksum/settings": f"{_SETTINGS[:-2]} | sha256sum | quote>>"}
    if component == "worker":
        pod["initContainers"] = [_engine(engine) for engine in pod["initContainers"]]
        annotations["checksum/engine"] = f"<<{_SCRIPT} | sha256sum | quote>>"
    metadata = spec["template"]["metadata"] | {"annotations": annotations}
    replicas = {"replicas": f"<<int {values}.replicas>>"} if "replicas" in spec else {}
    return document | {"spec": spec | replicas | {"template": {"metadata": metadata, "spec": pod}}}


def _without_or_with_tls(probe: Manifest) -> Manifest:
    """The probe by gRPC, which is the base's, or by HTTP."""
    rest = {name: value for name, value in probe.items() if name != "grpc"}
    return {**{f"<<?{kind} {_PROBE.format(kind)}>>": None for kind in ("grpc", "httpGet")}, **rest}


def _engine(container: Manifest) -> Manifest:
    return container | {
        "image": "<<$.Values.engine.image>>",
        "args": [*container["args"], "<<*$.Values.engine.extraArgs>>"],
        "resources": "<<toJson $.Values.engine.resources>>",
    }


def _replaced(value: Any, old: str, new: str) -> Any:
    return _mapped(value, lambda found: new if found == old else found)


def _as_template(text: str) -> str:
    """YAML with Helm's syntax in place of the marks."""
    text = _OPTIONAL.sub(r"\1{{- with \3 }}\n\1\2: {{ toJson . }}\n\1{{- end }}", text)
    text = _ITEMS.sub(r"\1{{- range \2 }}\n\1- {{ toJson . }}\n\1{{- end }}", text)
    return _EXPRESSION.sub(r"{{ \1 }}", text)

"""The configuration files of the cluster's programs. Each function takes names and returns a text."""

import json

from tests.cluster.layout import (
    API_ADDRESS,
    CONFIG,
    DNS_SERVICE_ADDRESS,
    GROUP,
    KEYS,
    NODES,
    PAUSE_IMAGE,
    VOLUMES_PER_NODE,
    containerd_socket,
    node_address,
    pod_network,
)

CNI_PLUGINS = "/usr/lib/cni"
"""Where Debian's containernetworking-plugins is."""
VOLUMES = "/var/lib/volumes"

_CONTAINERD = """
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[debug]
level = "warn"
"""

COREFILE = f"""
.:53 {{
    bind {API_ADDRESS}
    errors
    ready {API_ADDRESS}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {CONFIG}/coredns.kubeconfig
        pods insecure
        ttl 5
    }}
    cache 5
}}
"""


def containerd(node: str) -> str:
    """Return containerd's configuration. It lowers no OOM scores, which needs CAP_SYS_RESOURCE."""
    return _CONTAINERD.format(
        socket=containerd_socket(node), pause=PAUSE_IMAGE, plugins=CNI_PLUGINS, networks=f"{CONFIG}/{node}-networks"
    )


def pod_networks(node: str) -> str:
    """Return the pods' network. Point to point: traffic between pods of one node is routed, so that Services see it."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": pod_network(node)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return _json(
        {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {"type": "ptp", "ipMasq": False, "ipam": addresses},
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
    )


def kubelet(node: str) -> str:
    """Return the kubelet's configuration. It keeps images, and evicts only when the machine's disk is full."""
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node_address(node),
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{KEYS}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{GROUP}/{node}",
            "clusterDNS": [DNS_SERVICE_ADDRESS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": f"unix://{containerd_socket(node)}",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "maxOpenFiles": 65536,
            "oomScoreAdj": 0,
            "resolvConf": f"{CONFIG}/resolv.conf",
            "runtimeRequestTimeout": "5m",
            "serializeImagePulls": False,
        }
    )


def kube_proxy() -> str:
    """Return the configuration of the only kube-proxy: the nodes share a network namespace."""
    return _json(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{CONFIG}/kube-proxy.kubeconfig"},
            "clusterCIDR": "10.202.0.0/16",
            "conntrack": {"maxPerCore": 0, "min": 0},
            "hostnameOverride": NODES[0],
            "mode": "iptables",
            "oomScoreAdj": 0,
        }
    )


def first_objects() -> str:
    """Return what a cluster's installer adds: the name service's Service, and storage."""
    name = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": name,
        "spec": {"clusterIP": DNS_SERVICE_ADDRESS, "ports": ports},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**name, "labels": {"kubernetes.io/service-name": "kube-dns"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [API_ADDRESS]}],
        "ports": ports,
    }
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    volumes = [_volume(node, number) for node in NODES for number in range(VOLUMES_PER_NODE)]
    return _json({"apiVersion": "v1", "kind": "List", "items": [service, endpoints, storage_class, *volumes]})


def _volume(node: str, number: int) -> dict[str, object]:
    where = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{node}-{number}"},
        "spec": {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "local",
            "local": {"path": f"{VOLUMES}/{number}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [where]}]}},
        },
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2)

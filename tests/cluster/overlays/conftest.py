"""Fixtures of the tests that apply overlays."""

import pytest

import tests.support.servers.cluster
from tests.cluster.overlays.cluster import OverlayCluster


@pytest.fixture(scope="session", name="cluster")
def overlay_cluster(cluster: tests.support.servers.cluster.Cluster) -> OverlayCluster:
    """The test cluster, with what tests of overlays need of it."""
    return OverlayCluster(cluster.kubeconfig)

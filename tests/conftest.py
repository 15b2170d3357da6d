"""Fixtures for all tests below this folder."""

import tests.support.examples  # noqa: F401 - for what it sets
from tests.support.observers.abandoned_connections import no_abandoned_connections
from tests.support.observers.blocked_loop import loop_watch, no_blocked_loop
from tests.support.servers.browser import chromium
from tests.support.servers.cluster import cluster, namespace, python_image
from tests.support.servers.docker import docker_engine, scope
from tests.support.servers.fixtures import bucket_prefix, database_name, mongo_uri, mongod, nats_server, s3_server
from tests.support.servers.own_engine import private_engine

__all__ = [
    "bucket_prefix",
    "chromium",
    "cluster",
    "database_name",
    "docker_engine",
    "loop_watch",
    "mongo_uri",
    "mongod",
    "namespace",
    "nats_server",
    "no_abandoned_connections",
    "no_blocked_loop",
    "private_engine",
    "python_image",
    "s3_server",
    "scope",
]

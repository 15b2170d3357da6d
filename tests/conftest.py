"""Fixtures for all tests below this folder."""

import tests.support.examples  # noqa: F401 - for what it sets
from tests.support.abandoned_connections import no_abandoned_connections
from tests.support.blocked_loop import loop_watch, no_blocked_loop
from tests.support.browser import chromium
from tests.support.cluster import cluster, namespace, python_image
from tests.support.docker import docker_engine, scope
from tests.support.own_engine import private_engine
from tests.support.servers import bucket_prefix, database_name, mongo_uri, mongod, nats_server, s3_server

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

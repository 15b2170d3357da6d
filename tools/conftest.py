"""Fixtures for all tests below this folder."""

import tests.support.examples  # noqa: F401 - for what it sets
from tests.support.observers.abandoned_connections import no_abandoned_connections
from tests.support.observers.blocked_loop import loop_watch, no_blocked_loop
from tests.support.rigs.commands import commands, server_variables
from tests.support.servers.browser import chromium
from tests.support.servers.docker import docker_engine, scope
from tests.support.servers.fixtures import bucket_prefix, database_name, mongo_uri, mongod, nats_server, s3_server

__all__ = [
    "bucket_prefix",
    "chromium",
    "commands",
    "database_name",
    "docker_engine",
    "loop_watch",
    "mongo_uri",
    "mongod",
    "nats_server",
    "no_abandoned_connections",
    "no_blocked_loop",
    "s3_server",
    "scope",
    "server_variables",
]

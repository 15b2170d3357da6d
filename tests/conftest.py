"""Fixtures for all tests below this folder."""

from tests.support.browser import chromium
from tests.support.docker import docker_engine, scope
from tests.support.servers import bucket_prefix, database_name, mongo_uri, mongod, nats_server, s3_server

__all__ = [
    "bucket_prefix",
    "chromium",
    "database_name",
    "docker_engine",
    "mongo_uri",
    "mongod",
    "nats_server",
    "s3_server",
    "scope",
]

"""Fixtures for all tests below this folder."""

from tests.support.docker import docker_engine, scope
from tests.support.hostile_bot import probe
from tests.support.own_engine import private_engine
from tests.support.servers import bucket_prefix, database_name, mongo_uri, mongod, nats_server, s3_server

__all__ = [
    "bucket_prefix",
    "database_name",
    "docker_engine",
    "mongo_uri",
    "mongod",
    "nats_server",
    "private_engine",
    "probe",
    "s3_server",
    "scope",
]

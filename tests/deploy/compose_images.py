"""Stand-ins for the images of other projects that the Compose project names, made of what this environment has.

Each is a real server, and keeps what the project relies on: entry point, user, paths, volumes, the programs of its
health check.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import docker

from tools.stack import binaries

REPOSITORY = "the0-stand-in"
BASE = "python:3.11-slim"
_LOADER = "ld-linux-x86-64.so.2"

# In place of BusyBox's: any answer of the server's will do, since the servers behind it have other paths.
_WGET = """\
#!/bin/bash
set -e
address=${@: -1}
address=${address#http://}
address=${address%%/*}
exec 3<>"/dev/tcp/${address/://}"
printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3
read -r protocol _ <&3
[[ $protocol == HTTP/* ]]
"""

# A program of this machine's with the libraries of this machine, whatever the base image has.
_WITH_LIBRARIES = """\
#!/bin/sh
exec /opt/lib/{loader} --library-path /opt/lib /opt/{name} "$@"
"""

# As in the true image: the first start makes the root user, before the server is open to others.
_MONGO_ENTRY_POINT = """\
#!/bin/bash
set -eu
if [ "$(id -u)" = 0 ]; then
  chown -R mongodb /data/db
  exec setpriv --reuid=999 --regid=999 --clear-groups --inh-caps=-all "$0" "$@"
fi
if [ ! -e /data/db/WiredTiger ]; then
  mongod --dbpath /data/db --bind_ip 127.0.0.1 --port 27018 --fork --logpath /tmp/first.log > /dev/null
  python3 - <<'PYTHON'
import os, pymongo
name, password = os.environ["MONGO_INITDB_ROOT_USERNAME"], os.environ["MONGO_INITDB_ROOT_PASSWORD"]
client = pymongo.MongoClient("mongodb://127.0.0.1:27018")
client.admin.command("createUser", name, pwd=password, roles=["root"])
PYTHON
  mongod --dbpath /data/db --shutdown > /dev/null
fi
exec "$@" --dbpath /data/db
"""

# Does what the scripts of the health check and of a restore say, and refuses any other one.
_MONGOSH = """\
#!/usr/bin/env python3
import json, os, re, sys, time, pymongo
script = sys.argv[sys.argv.index("--eval") + 1]
assert all(word in script for word in ("auth(", "process.env.MONGO_INITDB_ROOT_PASSWORD")), script
assert ("rs.initiate(" in script) != ("updateMany({}, raised)" in script), script
name, password = os.environ["MONGO_INITDB_ROOT_USERNAME"], os.environ["MONGO_INITDB_ROOT_PASSWORD"]
client = pymongo.MongoClient("127.0.0.1", 27017, username=name, password=password, directConnection=True,
                             serverSelectionTimeoutMS=5000)
if "updateMany" in script:
    constants = dict(re.findall(r"const (\\w+) = (.*);", script))
    update = json.loads(constants["raised"].replace("seconds", constants["seconds"]))
    services, collections = map(json.loads, re.findall(r"const \\w+ of (\\[.*?\\])", script))
    for service in services:
        for collection in collections:
            client[service][collection].update_many({}, update)
    sys.exit(0)
try:
    client.admin.command("replSetGetStatus")
except pymongo.errors.OperationFailure as error:
    if error.code != 94:
        raise
    client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": "mongo:27017"}]})
for _ in range(50):
    if client.admin.command("hello").get("isWritablePrimary"):
        sys.exit(0)
    time.sleep(0.2)
sys.exit(1)
"""

# `--archive` alone, as a sequence of BSON documents: enough to prove what is asked of the true programs.
_MONGO_TOOL = """\
#!/usr/bin/env python3
import argparse, gzip, os, sys, bson, pymongo
parser = argparse.ArgumentParser()
for option in ("--config", "--username", "--authenticationDatabase", "--db", "--nsInclude"):
    parser.add_argument(option)
for option in ("--archive", "--gzip", "--drop", "--quiet"):
    parser.add_argument(option, action="store_true")
asked = parser.parse_args()
with open(asked.config) as config:
    password = config.read().strip().removeprefix("password: ").strip('"')
client = pymongo.MongoClient("127.0.0.1", 27017, username=asked.username, password=password,
                             authSource=asked.authenticationDatabase, directConnection=True)
if os.path.basename(sys.argv[0]) == "mongodump":
    with gzip.open(sys.stdout.buffer, "wb") as archive:
        for name in client[asked.db].list_collection_names():
            for document in client[asked.db][name].find():
                archive.write(bson.encode({"in": [asked.db, name], "document": document}))
else:
    assert asked.drop
    dropped = set()
    with gzip.open(sys.stdin.buffer) as archive:
        for entry in bson.decode_file_iter(archive):
            database, name = entry["in"]
            assert asked.nsInclude == f"{database}.*"
            if name not in dropped:
                client[database][name].delete_many({})
                dropped.add(name)
            client[database][name].insert_one(entry["document"])
"""

_VERSITYGW = """\
#!/bin/sh
set -eu
export MINIO_ROOT_USER="$ROOT_ACCESS_KEY_ID" MINIO_ROOT_PASSWORD="$ROOT_SECRET_ACCESS_KEY" HOME=/tmp
cd /data/metadata
[ -e meta.db ] || juicefs --no-agent format --storage file --bucket /data/objects/ --trash-days 0 sqlite3://meta.db the0
exec juicefs --no-agent gateway --no-banner --multi-buckets --keep-etag --no-usage-report --backup-meta 0 \\
  --cache-dir memory --buffer-size 64M --cache-size 32M --bucket /data/objects/ sqlite3://meta.db 0.0.0.0:9000
"""

# In place of `s3-policies.py apply`: the same users, by the interface of MinIO, whose users have policies of their own.
_S3_USERS = """\
import os, runpy
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
described = runpy.run_path("/etc/the0/s3-policies.py")
endpoint, key, secret = (os.environ[f"MINIO_{name}"] for name in ("ENDPOINT", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
root = Minio(endpoint, key, secret, secure=False)
for bucket in dict.fromkeys(described["BUCKETS"]):
    if not root.bucket_exists(bucket):
        root.make_bucket(bucket)
admin = MinioAdmin(endpoint=endpoint, credentials=StaticProvider(key, secret), secure=False)
for role in described["ROLES"]:
    admin.user_add(role, described["secret_of"](role))
    admin.policy_add(role, policy=described["user_policy"](role))
    admin.policy_set(role, user=role)
"""

# In place of a master or worker: all that a health check asks for.
_ANSWERS = """\
import http.server, os, signal
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"dependencies": {"leadership": {"ok": true, "required": true}}}')
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.HTTPServer(("", 8080), Answer).serve_forever()
"""


class StandIns:
    """Builds the images, under tags of their own, and removes them.

    Args:
        name: a name that no other test uses; part of every tag.

    Attributes:
        servers: the image of each service of another project, once they are built.
        s3_users: an image that makes the users of the S3 server among them.
        answering: an image whose container is healthy as a master and as a worker.
    """

    def __init__(self, client: docker.DockerClient, name: str) -> None:
        self.name = name
        self.servers: dict[str, str] = {}
        self.s3_users = ""
        self.answering = ""
        self._client = client

    def build(self, folder: Path) -> None:
        """Build all below the empty *folder*."""
        for name, recipe in {"mongo": _mongo, "nats": _nats, "s3": _s3}.items():
            self.servers[name] = self._build(name, folder / name, recipe)
        self.s3_users = self._build("s3-users", folder / "s3-users", _s3_users)
        self.answering = self._build("answering", folder / "answering", _answering)

    def remove(self) -> None:
        """Remove what was built. Containers that use them must be gone."""
        for tag in filter(None, [*self.servers.values(), self.s3_users, self.answering]):
            self._client.images.remove(tag, force=True)

    def _build(self, name: str, context: Path, recipe: Callable[[Path], str]) -> str:
        context.mkdir()
        (context / "Dockerfile").write_text(f"FROM {BASE}\n{recipe(context)}")
        tag = f"{REPOSITORY}/{name}:{self.name}"
        self._client.images.build(path=str(context), tag=tag, rm=True)
        shutil.rmtree(context)
        return tag


def _answering(context: Path) -> str:
    (context / "answers.py").write_text(_ANSWERS)
    return 'COPY answers.py /answers.py\nUSER 10001:10001\nENTRYPOINT ["python3", "/answers.py"]\n'


def _mongo(context: Path) -> str:
    _with_libraries(context, "mongod", binaries.mongod())
    _with_modules(context, "pymongo", "bson", "gridfs", "dns")
    _write(context / "bin" / "docker-entrypoint.sh", _MONGO_ENTRY_POINT)
    _write(context / "bin" / "mongosh", _MONGOSH)
    for name in ("mongodump", "mongorestore"):
        _write(context / "bin" / name, _MONGO_TOOL)
    return (
        "RUN groupadd -g 999 mongodb && useradd -u 999 -g 999 mongodb && mkdir -p /data/db /data/configdb\n"
        "COPY opt /opt\nCOPY bin /usr/local/bin\nCOPY python /opt/python\nENV PYTHONPATH=/opt/python\n"
        'VOLUME /data/db /data/configdb\nENTRYPOINT ["docker-entrypoint.sh"]\nCMD ["mongod"]\n'
    )


def _nats(context: Path) -> str:
    shutil.copy(binaries.nats_server(), context / "nats-server")
    _write(context / "wget", _WGET)
    return 'COPY wget /usr/bin/wget\nCOPY nats-server /usr/local/bin/nats-server\nENTRYPOINT ["nats-server"]\n'


def _s3(context: Path) -> str:
    _with_libraries(context, "juicefs", binaries.juicefs())
    _write(context / "bin" / "versitygw", _VERSITYGW)
    _write(context / "bin" / "wget", _WGET)
    return 'COPY opt /opt\nCOPY bin /usr/local/bin\nENTRYPOINT ["/usr/local/bin/versitygw"]\n'


def _s3_users(context: Path) -> str:
    (context / "s3-users.py").write_text(_S3_USERS)
    modules = ("minio", "urllib3", "certifi", "Crypto", "argon2", "_argon2_cffi_bindings", "cffi", "_cffi_backend")
    _with_modules(context, *modules, "typing_extensions")
    return (
        "COPY python /opt/python\nENV PYTHONPATH=/opt/python\nCOPY s3-users.py /s3-users.py\n"
        'ENTRYPOINT ["python3", "/s3-users.py"]\n'
    )


def _with_modules(context: Path, *names: str) -> None:
    """Put modules of this environment below *context*."""
    for name in names:
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        origin = Path(found.origin)
        if found.submodule_search_locations is None:
            shutil.copy(origin, _made(context / "python" / origin.name))
        else:
            shutil.copytree(origin.parent, context / "python" / name)


def _with_libraries(context: Path, name: str, program: Path) -> None:
    """Put *program* and all libraries that it needs below *context*, with a command that starts it."""
    libraries = context / "opt" / "lib"
    libraries.mkdir(parents=True)
    shutil.copy(program, context / "opt" / name)
    needs = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=60, check=False).stdout
    if "=>" not in needs:
        shutil.copy(program, _made(context / "bin" / name))
        return
    for line in needs.splitlines():
        paths = [word for word in line.split() if word.startswith("/")]
        if paths:
            shutil.copy(paths[0], libraries)
    _write(context / "bin" / name, _WITH_LIBRARIES.format(loader=_LOADER, name=name))


def _write(path: Path, text: str) -> None:
    _made(path).write_text(text)
    path.chmod(0o755)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

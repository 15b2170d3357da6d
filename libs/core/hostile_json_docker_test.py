"""The reader of hostile JSON on the Python of the services' images, which may be older than the one that runs tests."""

import asyncio
from pathlib import Path

import docker

import libs.core.hostile_json
from tools.engine.ensure import Engine
from tools.images.ensure import PYTHON

# Every text of up to four of these parts, in a list, an object or alone: 150,000 texts.
_COMPARE = r"""
import itertools, json
from hostile_json import Bounds, Shape, scan

PARTS = ["[", "]", "{", "}", ",", ":", '"a"', '"', "\\", "\\u", "0041", "1", ".", "e", " ", "null"]
TEXTS = [
    '{"metrics": {"trades": 7}, "plots": [], "tables": []}',
    "[[1, 2], [3], [[4]], {}]",
    '{"a": [{"b": [[]]}, {"c": "\\u00e9\\n"}]}',
    '["\\u"xxxxx"]',
    "[1.x, 1ex]",
]

def accepted(text):
    try:
        json.loads(text)
    except ValueError:
        return False
    return True

bounds = Bounds(10**6, 100, 10**5)
made = ("".join(parts) for count in range(5) for parts in itertools.product(PARTS, repeat=count))
compared = 0
for text in itertools.chain(TEXTS, (form % text for text in made for form in ("%s", "[%s]", '{"a": %s}'))):
    compared += 1
    assert isinstance(scan(text.encode(), bounds), Shape) is accepted(text), text
print("compared", compared)
"""


async def test_python_of_the_images_accepts_what_json_accepts(docker_engine: Engine) -> None:
    output = await asyncio.to_thread(_run, docker_engine.url, _COMPARE)

    assert output.split()[0] == b"compared"
    assert int(output.split()[1]) > 150_000


def _run(url: str, script: str) -> bytes:
    client = docker.DockerClient(base_url=url, timeout=300)
    try:
        module = Path(libs.core.hostile_json.__file__).resolve()
        volumes = [f"{module}:/code/{module.name}:ro"]
        return bytes(
            client.containers.run(
                PYTHON, ["python3", "-c", script], environment={"PYTHONPATH": "/code"}, volumes=volumes, remove=True
            )
        )
    finally:
        client.close()

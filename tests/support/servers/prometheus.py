"""A real Prometheus that scrapes real processes, and queries for tests."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import aiohttp
import pytest
import yaml

from tools.debian.packages import PackageMissingError, ensure_unpacked
from tools.stack.server import EmbeddedServer


async def prometheus_program(name: str) -> Path:
    """Return the path of `prometheus` or `promtool`, from Debian's package.

    Outside CI, the test is skipped for a user who may not download it.
    """
    try:
        return await ensure_unpacked(name, "prometheus")
    except PackageMissingError as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))


@dataclass(frozen=True)
class Sample:
    """One series of an answer, with its current value."""

    labels: Mapping[str, str]
    value: float


class PrometheusServer(EmbeddedServer):
    """Prometheus with a configuration of the test; *directory* contains it and the data."""

    name: ClassVar[str] = "prometheus"

    _program: Path
    _config: Mapping[str, Any]

    @classmethod
    @asynccontextmanager
    async def reading(cls, directory: Path, config: Mapping[str, Any]) -> AsyncIterator[Self]:
        """A responding server, during the block.

        Raises:
            ProcessFailedError: it ended or did not answer in time; the message shows the end of its log.
        """
        server = cls(directory)
        server._program = await prometheus_program("prometheus")
        server._config = config
        try:
            await server.launch()
            yield server
        finally:
            await server.stop()

    async def query(self, expression: str) -> list[Sample]:
        """Return the current result of an expression; a number is a series without labels.

        Raises:
            AssertionError: Prometheus rejects it.
        """
        answer = await self._get("query", query=expression)
        if answer["resultType"] == "scalar":
            return [Sample({}, float(answer["result"][1]))]
        return [Sample(series["metric"], float(series["value"][1])) for series in answer["result"]]

    async def label_values(self, label: str, selector: str) -> Sequence[str]:
        """Return the values that a label of the selected series has."""
        return [str(value) for value in await self._get(f"label/{label}/values", **{"match[]": selector})]

    async def families(self) -> Mapping[str, str]:
        """Return every declared metric, also one without a series, and its type."""
        return {name: str(entries[0]["type"]) for name, entries in (await self._get("metadata")).items()}

    async def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its last evaluation."""
        return [rule for group in (await self._get("rules"))["groups"] for rule in group["rules"]]

    async def _get(self, path: str, **parameters: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}"
        async with aiohttp.ClientSession() as session, session.get(url, params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", f"{path} {parameters}: {answer.get('error')}"
        return answer["data"]

    async def _prepare(self) -> None:
        (self.directory / "prometheus.yml").write_text(yaml.safe_dump(dict(self._config)))

    def _command(self) -> Sequence[str | Path]:
        return [
            self._program,
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self.address}",
        ]

    async def _answers(self) -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://{self.address}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

"""The masker of a container whose folder and spec another worker has."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from libs.core.aio.threads import Threads
from libs.core.secrets.references import Kind, Reference
from libs.core.secrets.resolver import SecretResolver, SecretSources
from libs.docker_runner.containers.container import ContainerState, Label, from_labels
from libs.docker_runner.containers.run_folders import RunFolders
from libs.docker_runner.containers.secret_label import label_of
from libs.docker_runner.containers.secret_masks import SecretMasks

VALUE = "k3y-of-ann"
LINE = f"got {VALUE}\n".encode()
KEY = Reference(Kind.SECRET, "key")


@pytest.fixture
def masks(tmp_path: Path) -> Iterator[SecretMasks]:
    """Those of a worker that resolves the secret `key` of `ann`, and has no folder of any container."""
    (tmp_path / "secrets" / "ann").mkdir(parents=True)
    (tmp_path / "secrets" / "ann" / "key").write_text(VALUE)
    resolver = SecretResolver(SecretSources(tmp_path / "secrets").providers)
    with closing(Threads("masks", 1)) as threads:
        yield SecretMasks(RunFolders(tmp_path / "runtime"), resolver, threads)


async def masked(masks: SecretMasks, label: str) -> bytes:
    container = from_labels(
        {Label.TOKEN: "token", Label.SECRETS: label}, container_id="c", name="bot", state=ContainerState.RUNNING
    )
    masker = await masks.of(container)
    return LINE if masker is None else masker.masked(LINE)


async def test_values_that_the_label_verifies_are_masked(masks: SecretMasks) -> None:
    assert await masked(masks, label_of([KEY], "ann", [VALUE], "token")) == b"got **********\n"


@pytest.mark.parametrize(
    "label",
    [
        label_of([KEY], "ann", ["another-value"], "token"),
        label_of([KEY], "bob", [VALUE], "token"),
        label_of([KEY], "ann", [VALUE], "of-another-container"),
        label_of([KEY, Reference(Kind.SEALED, "v1." + "a" * 5000)], "ann", [VALUE], "token"),
        "malformed",
    ],
    ids=["changed", "not-resolved", "another-container", "too-long", "malformed"],
)
async def test_whole_output_is_hidden_when_values_are_not_verified(masks: SecretMasks, label: str) -> None:
    assert await masked(masks, label) == b"*" * (len(LINE) - 1) + b"\n"


async def test_output_of_a_container_without_a_label_is_left_as_it_is(masks: SecretMasks) -> None:
    assert await masked(masks, "") == LINE

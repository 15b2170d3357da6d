"""A short form of the starts benchmark."""

from pathlib import Path

from tests.benchmarks.starts import NODE, PYTHON, TARGET_P50_RATIO, measure
from tools.engine.ensure import Engine


async def test_a_bot_starts_about_as_soon_as_a_bare_container(tmp_path: Path, docker_engine: Engine) -> None:
    measured = await measure(tmp_path, docker_engine, 3, (PYTHON, NODE))

    # Few starts on a machine that does much else; the benchmark itself holds to the targets.
    assert {one.language: one.ratio(50) for one in measured if one.ratio(50) > 2 * TARGET_P50_RATIO} == {}
    assert all(start.first_line > start.created > 0 for one in measured for start in one.ours)

"""A short form of the starts benchmark."""

from pathlib import Path

from tests.benchmarks.starts import NODE, PYTHON, TARGET_P50_RATIO, Figures, measure
from tools.engine.ensure import Engine


async def test_a_bot_starts_about_as_soon_as_a_bare_container(tmp_path: Path, docker_engine: Engine) -> None:
    measured = await measure(tmp_path, docker_engine, 3, (PYTHON, NODE))

    # Few starts on a machine that does much else; the benchmark itself holds to the targets.
    assert {one.language: ratio for one in measured if (ratio := best_ratio(one)) > 2 * TARGET_P50_RATIO} == {}
    assert all(start.first_line > start.created > 0 for one in measured for start in one.ours)


def best_ratio(figures: Figures) -> float:
    """Of the medians or of the quickest: what is slow by itself is slow in both."""
    return min(figures.ratio(50), figures.ratio(1))

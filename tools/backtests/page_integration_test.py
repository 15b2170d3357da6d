"""The page of a backtest as a person sees it: in a browser that has no network."""

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.support.servers.browser import watched
from tools.backtests.page import page
from tools.samples.moving_average_crossover import main as sample

pytestmark = pytest.mark.timeout(180)  # a browser may have to be installed first


@pytest.fixture(scope="module")
def analysis() -> dict[str, Any]:
    """What the sample backtest finds."""
    with contextlib.redirect_stdout(io.StringIO()):
        return sample.main("sample", {"fast_days": 20, "slow_days": 50})


async def test_metrics_plots_and_tables_are_seen_and_nothing_is_asked_of_a_network(
    chromium: Browser, tmp_path: Path, analysis: dict[str, Any]
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page("sample-1", analysis, "14 trades"), encoding="utf-8")

    async with watched(chromium) as shown:
        await shown.open(file)
        text = await shown.page.inner_text("body")
        plots = await shown.page.locator("svg").all()
        lines = [await shown.page.locator("svg").nth(number).locator("path").count() for number in range(len(plots))]
        sizes = [box for plot in plots if (box := await plot.bounding_box()) is not None]

    assert text.startswith("sample-1")
    assert "total return percent" in text
    assert "-3.27" in text
    assert all(heading in text for heading in ("Equity", "Drawdown", "Price", "Trades"))
    assert lines == [2, 1, 3]
    assert all(box["width"] > 300 and box["height"] > 100 for box in sizes)
    assert (shown.requests, shown.complaints) == ([file.as_uri()], [])


async def test_the_lines_of_a_plot_are_within_it(chromium: Browser, tmp_path: Path, analysis: dict[str, Any]) -> None:
    file = tmp_path / "page.html"
    file.write_text(page("sample-1", analysis, ""), encoding="utf-8")
    outside = """() => [...document.querySelectorAll('svg path')].filter(path => {
      const line = path.getBoundingClientRect(), plot = path.closest('svg').getBoundingClientRect();
      return line.width < plot.width / 2 || line.left < plot.left || line.right > plot.right + 1
        || line.top < plot.top - 1 || line.bottom > plot.bottom + 1;
    }).length"""

    async with watched(chromium) as shown:
        await shown.open(file)
        found = await shown.page.evaluate(outside)

    assert found == 0


async def test_output_on_page_is_collapsed_and_can_be_opened(chromium: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page("b", {"metrics": {"m": 1}}, "what it printed"), encoding="utf-8")

    async with watched(chromium) as shown:
        await shown.open(file)
        before = await shown.page.get_by_text("what it printed").is_visible()
        await shown.page.get_by_text("Output").click()
        after = await shown.page.get_by_text("what it printed").is_visible()

    assert (before, after) == (False, True)

"""The status page as a person sees it: in a real browser, at a desk and on a phone, over processes that run.

Screenshots are left in $TEST_ARTIFACTS (see CONTRIBUTING.md).
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.support.eventually import eventually
from tests.support.rigs.status_rig import ALL, EVIL, TICKER, Outside, artifacts, outside
from tests.support.servers.browser import Watched, watched
from tools.engine.ensure import Engine

if TYPE_CHECKING:
    from playwright.async_api import Browser

DESK, PHONE = (1280, 800), (390, 844)
PAGES = {
    "overview": "/",
    "bots": "/entities",
    "runs": "/runs?failed=true",
    "workers": "/workers",
    "segments": "/segments",
    "bot": f"/entity?id={TICKER}",
    "hostile-bot": f"/entity?id={quote(EVIL, safe='')}",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seen(tmp_path_factory: pytest.TempPathFactory, docker_engine: Engine) -> AsyncIterator[Outside]:
    async with outside(tmp_path_factory.mktemp("page"), docker_engine) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def tab(chromium: "Browser") -> AsyncIterator[Watched]:
    async with watched(chromium, offline=False) as made:
        yield made


async def show(tab: Watched, seen: Outside, path: str, size: tuple[int, int] = DESK, process: str = "master") -> None:
    await tab.page.set_viewport_size({"width": size[0], "height": size[1]})
    await tab.page.goto(str(seen.url(process, path)), wait_until="load")


async def keep(tab: Watched, name: str) -> None:
    await tab.page.screenshot(path=artifacts() / f"status-page-{name}.png", full_page=True)


def is_calm(tab: Watched, seen: Outside) -> bool:
    """Whether the page had no errors and no external requests."""
    origin = str(seen.url("master", "/"))
    elsewhere = [url for url in tab.requests if not url.startswith(origin)]
    assert (tab.complaints, elsewhere) == ([], [])
    return True


@pytest.mark.parametrize("name", PAGES)
async def test_every_page_fits_desktop_and_phone_without_external_requests(
    seen: Outside, tab: Watched, name: str
) -> None:
    for place, size in (("desk", DESK), ("phone", PHONE)):
        await show(tab, seen, PAGES[name], size)
        if "/entity?" in PAGES[name]:
            await tab.page.locator("#log .line", has_text="tick").first.wait_for()
        await keep(tab, f"{name}-{place}")

        wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await tab.page.evaluate(wider) <= 0
        assert await tab.page.locator("h1").count() == 1
    assert is_calm(tab, seen)


async def test_page_follows_dark_colour_scheme(seen: Outside, tab: Watched) -> None:
    await show(tab, seen, "/")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = await tab.page.evaluate(ground)
    await tab.page.emulate_media(color_scheme="dark")

    assert await tab.page.evaluate(ground) != light
    await keep(tab, "overview-dark")


async def test_hostile_ids_and_output_are_shown_and_do_nothing(seen: Outside, tab: Watched) -> None:
    await show(tab, seen, "/entities")
    listed = await tab.page.locator("tbody th a").all_inner_texts()
    assert len(listed) == len(ALL)
    assert "<script>document.title='owned'</script>" in listed

    await tab.page.locator("tbody th a", has_text="<img src=x").click()
    await eventually(lambda: is_hostile(tab))
    heading = await tab.page.locator("h1").inner_text()

    assert heading == EVIL.replace("\u202e", "\\u{202e}")
    assert "owned" not in await tab.page.title()
    assert await tab.page.locator("main img, main script, #log *:not(.line)").count() == 0
    assert is_calm(tab, seen)


async def is_hostile(tab: Watched) -> bool:
    """Whether all has come that the bot prints now and then beside its ticks."""
    log = await tab.page.locator("#log").inner_text()
    assert "<script>document.title='owned'</script>" in log
    assert "red \\u{1b}]0;owned\\u{7} \\u{202e}gnp.exe \\u{200b}" in log
    assert "line truncated" in log
    return "tick" in log


async def test_a_new_line_appears_by_itself_and_the_page_stays_short(seen: Outside, tab: Watched) -> None:
    await show(tab, seen, f"/entity?id={TICKER}")
    lines = tab.page.locator("#log .line", has_text="tick")
    await lines.first.wait_for()
    await eventually(lambda: is_live(tab))

    before = await lines.last.inner_text()

    assert await eventually(lambda: is_other(tab, before))
    assert await tab.page.locator("#log .line").count() <= 2000
    await keep(tab, "live-output")
    assert is_calm(tab, seen)


async def is_live(tab: Watched) -> bool:
    return await tab.page.locator("#log-state").inner_text() == "live"


async def is_other(tab: Watched, before: str) -> bool:
    return await tab.page.locator("#log .line").last.inner_text() not in (before, "")


async def test_the_page_brings_itself_up_to_date_and_keeps_what_was_opened(seen: Outside, tab: Watched) -> None:
    await show(tab, seen, "/runs?failed=true")
    await tab.page.locator("summary").last.click()
    as_of = await tab.page.locator("footer time").inner_text()

    async def is_later() -> bool:
        return await tab.page.locator("footer time").inner_text() != as_of

    assert await eventually(is_later)
    assert await tab.page.locator("details[open]").count() == 1
    assert "no <i>funds</i>" in await tab.page.locator("details[open]").inner_text()


async def test_bots_are_found_by_the_form(seen: Outside, tab: Watched) -> None:
    await show(tab, seen, "/entities", PHONE)
    await tab.page.get_by_label("Id begins with").fill("tick")
    await tab.page.get_by_label("State").select_option("running")
    await tab.page.get_by_role("button", name="Find").click()

    await tab.page.wait_for_url("**prefix=tick**")
    assert await tab.page.locator("tbody th").all_inner_texts() == [TICKER]
    assert is_calm(tab, seen)


async def test_page_is_readable_without_javascript(seen: Outside, chromium: "Browser") -> None:
    context = await chromium.new_context(java_script_enabled=False)
    try:
        page = await context.new_page()
        await page.goto(str(seen.url("master", f"/entity?id={TICKER}")))
        await page.get_by_role("link", name="as text").click()
        await page.wait_for_url("**/log?**")
        assert "tick " in await page.locator("body").inner_text()
    finally:
        await context.close()


async def test_page_of_a_standby_shows_what_the_leader_knows(seen: Outside, tab: Watched) -> None:
    async def shows_workers() -> bool:
        await show(tab, seen, "/workers", process="standby")
        return await tab.page.get_by_text("w1", exact=True).count() > 0

    assert await eventually(shows_workers)
    await keep(tab, "standby")

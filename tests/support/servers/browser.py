"""A browser for tests of pages: Debian's Chromium, headless and without a network."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tools.debian.packages import PackageMissingError, ensure_program

if TYPE_CHECKING:  # slow to import, and most tests need no browser
    from playwright.async_api import Browser, ConsoleMessage, Page, Request

_PATIENCE_SECONDS = 90


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> "AsyncIterator[Browser]":
    """A browser shared by all tests; each opens its own page with :func:`watched`."""
    from playwright.async_api import async_playwright

    try:
        program = await ensure_program("chromium", "chromium")
    except PackageMissingError as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))
    async with async_playwright() as playwright:
        # Its own sandbox needs privileges that a container lacks; only the project's own pages are opened.
        browser = await playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            timeout=_PATIENCE_SECONDS * 1000,
        )
        yield browser
        await browser.close()


@dataclass
class Watched:
    """A page, with its requests and errors."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    async def open(self, file: Path) -> None:
        """Show a file, and wait until loading is complete."""
        await self.page.goto(file.as_uri(), wait_until="networkidle")


@asynccontextmanager
async def watched(browser: "Browser", *, offline: bool = True) -> AsyncIterator[Watched]:
    """Return a new page that records every request and console error."""
    context = await browser.new_context(offline=offline)
    try:
        context.set_default_timeout(_PATIENCE_SECONDS * 1000)
        made = Watched(await context.new_page())

        def requested(request: "Request") -> None:
            made.requests.append(request.url)

        def on_console(message: "ConsoleMessage") -> None:
            if message.type in ("error", "warning"):
                made.complaints.append(message.text)

        made.page.on("request", requested)
        made.page.on("console", on_console)
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        yield made
    finally:
        await context.close()

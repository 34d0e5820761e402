"""A page in a real browser: headless Chromium, or a skip that names what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@contextmanager
def opened(path: Path, width: int = 1600, scheme: Any = "light") -> Iterator[Any]:
    """The page of Playwright; at the end nothing may have gone wrong in it, and nothing been loaded."""
    browser_path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser_path is None:
        pytest.skip("needs the browser Chromium (not installed)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    errors: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as starter:
        browser = starter.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: (errors.append("a dialog"), dialog.dismiss()))
        page.goto(path.absolute().as_uri())
        yield page
        browser.close()
    assert not errors, errors
    assert [url for url in asked if not url.startswith("data:")] == [path.absolute().as_uri()]

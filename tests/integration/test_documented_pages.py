"""The pages in docs/ that a browser shows, in a real one: those of the tutorial, and the snippet for topics."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.needs import need_module
from tests.support.processes import ROOT, Children
from tests.test_readme import Supervised, program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@contextmanager
def serving(name: str, folder: Path, more: str = "") -> Iterator[str]:
    """The address of a program of the documentation, in a process of its own; `more`: lines before it serves."""
    text = program(name)
    with Children() as children:
        if "gows.run(" in text:
            running = Supervised(children, name, folder / "site_of_page.py")
            try:
                yield f"http://127.0.0.1:{running.port}/"
            finally:
                running.end()
            return
        last = 'server.listen_and_serve(":8080")\n'
        assert text.endswith(last)
        ready = "ready=lambda: print(server.addresses[0][1], flush=True)"
        text = text.removesuffix(last) + f'{more}\nserver.listen_and_serve("127.0.0.1:0", {ready})\n'
        (folder / "page.py").write_text(text)
        process = children.start([sys.executable, str(folder / "page.py")], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        process.terminate()
        assert process.wait(20) == 0


@contextmanager
def page_at(browser: Any, url: str) -> Iterator[tuple[Any, list[str]]]:
    """A page, and what it says on its console."""
    context = browser.new_context()
    page = context.new_page()
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.goto(url)
    yield page, said
    context.close()


def test_everybody_hears_everybody(browser: Any, tmp_path: Path) -> None:
    expect = need_module("playwright.sync_api").expect
    with (
        serving("tutorial_room", tmp_path) as url,
        page_at(browser, url) as (ann, ann_said),
        page_at(browser, url) as (bob, bob_said),
    ):
        for page in (ann, bob):
            page.wait_for_function("ws.readyState === 1")
        ann.locator("#line").fill("hello")
        ann.locator("#line").press("Enter")
        for page in (ann, bob):
            expect(page.locator("#log")).to_have_text("hello\n")
        assert ann_said + bob_said == []


def test_a_room_with_history(browser: Any, tmp_path: Path) -> None:
    expect = need_module("playwright.sync_api").expect
    with serving("tutorial_topics", tmp_path) as url:
        with page_at(browser, url) as (ann, ann_said):
            ann.wait_for_function("live.open")
            ann.locator("#line").fill("hello")
            ann.locator("#line").press("Enter")
            expect(ann.locator("#log")).to_have_text("I: hello\n")
            assert ann_said == []
        with page_at(browser, url) as (bob, bob_said):  # who comes later sees what was said
            expect(bob.locator("#log")).to_have_text("hello\n")
            assert bob_said == []


def test_the_snippet_for_topics(browser: Any, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "how-to" / "topics-for-browsers.md").read_text("utf-8")
    found = re.search(r"```html\n(.*?)```", text, re.DOTALL)
    assert found is not None
    route = f"server.add_route('/', lambda request: {found[1]!r})"
    with serving("browser", tmp_path, route) as url, page_at(browser, url) as (first, said):
        first.wait_for_function("chat.ready.then(() => true)")
        with (
            first.expect_console_message(lambda message: "public.chat" in message.text),
            page_at(browser, url) as (second, nothing),  # which says hello
        ):
            second.wait_for_function("chat.ready.then(() => true)")
        assert [line for line in said + nothing if "public.chat" not in line] == []

"""Static folders, through a router, on a connection: what can be reached and what not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gows.http.request import Request
from gows.http.router import Router
from gows.http.static import StaticFolder
from tests.support.http_site import Answer, Site, get

MakeSite = Callable[..., Site]
Fetch = Callable[[str], Answer]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "public"
    for path, text in {
        "index.html": "home",
        "a.txt": "a",
        "with space.txt": "space",
        "naïve.txt": "naïve",
        "sub/index.html": "sub home",
        "sub/b.txt": "b",
        "empty/.gitkeep": "",
        ".env": "secret",
        ".git/config": "secret",
        ".well-known/security.txt": "contact",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "out").symlink_to(tmp_path)
    (folder / "in.txt").symlink_to(folder / "a.txt")
    return folder


@pytest.fixture
def fetch(make_site: MakeSite, folder: Path) -> Fetch:
    router = Router()
    StaticFolder("/static/", folder).register(router)

    def view(request: Request) -> object:
        found, params = router.match(request.method, request.path)
        return found(request, **params)

    site = make_site(view)
    return lambda target: site.fetch(get(target))


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/static/a.txt", "a"),
        ("/static/a.txt?v=1", "a"),
        ("/static/", "home"),
        ("/static/index.html", "home"),
        ("/static/sub/", "sub home"),
        ("/static/sub/b.txt", "b"),
        ("/static/with%20space.txt", "space"),
        ("/static/na%C3%AFve.txt", "naïve"),
        ("/static/in.txt", "a"),
        ("/static/.well-known/security.txt", "contact"),
    ],
)
def test_what_can_be_reached(fetch: Fetch, target: str, body: str) -> None:
    answer = fetch(target)
    assert (answer.status, answer.body.decode()) == (200, body)


@pytest.mark.parametrize(
    "target",
    [
        "/static/missing",
        "/static",
        "/static/../secret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/..%2fsecret.txt",
        "/static/sub/../../secret.txt",
        "/static/sub%2f..%2f..%2fsecret.txt",
        "/static/..%5csecret.txt",
        "/static/%252e%252e/secret.txt",
        "/static/./a.txt",
        "/static//a.txt",
        "/static//etc/passwd",
        "/static/%2fetc/passwd",
        "/static/a.txt/",
        "/static/a.txt%00.html",
        "/static/%00",
        "/static/out.txt",
        "/static/out/secret.txt",
        "/static/out",
        "/static/.env",
        "/static/.git/config",
        "/static/empty/",
        "/static/empty/.gitkeep",
        "/static/" + "a" * 5000,
        "/static/" + "a/" * 2500,
        "/static/%ff",
    ],
)
def test_what_cannot_be_reached_is_404(fetch: Fetch, target: str) -> None:
    answer = fetch(target)
    assert answer.status == 404
    assert b"secret" not in answer.body


@pytest.mark.parametrize("target", ["/static/" + "a/" * 7000, "/static/" + "sub/" * 3000, "/static/" + "a" * 14000])
def test_a_long_path_costs_no_look_at_each_segment(fetch: Fetch, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []
    lstat = os.lstat

    def count(path: str) -> os.stat_result:
        looks.append(path)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", count)
    assert fetch(target).status == 404
    assert 0 < len(looks) < 50


def test_a_folder_without_its_slash_is_redirected(fetch: Fetch) -> None:
    """So that the links of its page are taken from behind the slash."""
    for target, location in (("/static/sub", "/static/sub/"), ("/static/sub?a=b", "/static/sub/?a=b")):
        answer = fetch(target)
        assert (answer.status, answer.headers["location"]) == (301, location)


def test_the_whole_site_as_a_folder(make_site: MakeSite, folder: Path) -> None:
    """A redirect never names another host, whatever the path looks like."""
    router = Router()
    StaticFolder("/", folder).register(router)
    (folder / "evil.example").mkdir()

    def view(request: Request) -> object:
        found, params = router.match(request.method, request.path)
        return found(request, **params)

    site = make_site(view)
    assert site.fetch(get("/")).body == b"home"
    assert site.fetch(get("/evil.example")).headers["location"] == "/evil.example/"
    assert site.fetch(get("//evil.example")).status == 404


def test_what_is_no_folder_is_refused(folder: Path) -> None:
    for path in (folder / "a.txt", folder / "missing"):
        with pytest.raises(ValueError, match="is no folder"):
            StaticFolder("/static", path)
    with pytest.raises(ValueError, match="begins with a slash"):
        StaticFolder("static", folder).register(Router())

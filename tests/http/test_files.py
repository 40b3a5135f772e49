"""Files as answers: whole, conditional, in ranges."""

from __future__ import annotations

import errno
import mimetypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gows.errors import HttpError, InvalidHeaderError
from gows.http.files import PIECE, FileBody
from gows.http.response import Response
from tests.support.http_site import Answer, Site, get

MakeSite = Callable[..., Site]

WHEN = 784111777  # Sun, 06 Nov 1994 08:49:37 GMT


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_bytes(b"0123456789")
    os.utime(path, (WHEN, WHEN))
    return path


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(bytes(range(256)) * 1024)
    return path


Fetch = Callable[..., Answer]


@pytest.fixture
def fetch(make_site: MakeSite) -> Fetch:
    def fetch(path: Path, *fields: str, method: str = "GET") -> Answer:
        return make_site(lambda request: Response.file(path)).fetch(get("/", *fields, method=method))

    return fetch


def test_a_file(fetch: Fetch, page: Path) -> None:
    answer = fetch(page)
    assert (answer.status, answer.body) == (200, b"0123456789")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-length"] == "10"
    assert answer.headers["last-modified"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert answer.headers["accept-ranges"] == "bytes"


def test_head_of_a_file(fetch: Fetch, page: Path, big: Path) -> None:
    assert fetch(page, method="HEAD").headers["content-length"] == "10"
    assert fetch(big, method="HEAD").headers["content-length"] == str(256 * 1024)


def test_an_empty_file(fetch: Fetch, tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    answer = fetch(path)
    assert (answer.status, answer.body) == (200, b"")


def test_a_file_larger_than_a_piece(fetch: Fetch, big: Path) -> None:
    assert big.stat().st_size > PIECE
    assert fetch(big).body == big.read_bytes()


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.css", "text/css; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("a.unknown", "application/octet-stream"),
        ("a.tar.gz", "application/octet-stream"),
        ("none", "application/octet-stream"),
    ],
)
def test_content_types(tmp_path: Path, name: str, content_type: str) -> None:
    (tmp_path / name).touch()
    response = Response.file(tmp_path / name)
    response.close()
    assert dict(response.headers)["Content-Type"] == content_type


def test_scripts_are_text(tmp_path: Path) -> None:
    """Python 3.12 changed the type of .js."""
    (tmp_path / "a.js").touch()
    response = Response.file(tmp_path / "a.js")
    response.close()
    assert dict(response.headers)["Content-Type"].endswith("/javascript; charset=utf-8")


def test_a_type_and_headers_of_ones_own(page: Path) -> None:
    response = Response.file(page, headers={"Cache-Control": "no-store"}, content_type="text/x")
    response.close()
    assert ("Cache-Control", "no-store") in response.headers
    assert ("Content-Type", "text/x") in response.headers


def test_a_header_that_may_not_be_sent_leaves_no_file_open(page: Path) -> None:
    with pytest.raises(InvalidHeaderError):
        Response.file(page, headers={"X": "a\r\nb"})


@pytest.mark.parametrize("name", ["missing", ".", "page.html/x", "a\0b", "fifo"])
def test_what_is_no_regular_file_is_404(page: Path, name: str) -> None:
    os.mkfifo(page.parent / "fifo")
    finders: list[Callable[[], Response]] = [
        lambda: Response.file(f"{page.parent}/{name}"),
        lambda: Response.file(name, root=page.parent),
    ]
    for find in finders:
        with pytest.raises(HttpError) as caught:
            find()
        assert caught.value.status == 404


def test_a_file_that_may_not_be_read_is_404(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(path)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HttpError, match="404"):
        FileBody(str(page))


@pytest.mark.parametrize("name", ["../secret", "sub/../../secret", "/etc/passwd", "out", "out/secret", "", ".", ".."])
def test_what_lies_outside_the_root_is_404(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root-secret").write_text("secret")
    (root / "out").symlink_to(tmp_path)
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "neighbour").symlink_to(tmp_path / "root-secret")
    for it in (name, "link", "neighbour"):
        with pytest.raises(HttpError) as caught:
            Response.file(it, root=root)
        assert caught.value.status == 404


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "a.txt")
    Response.file("b.txt", root=tmp_path).close()
    link = tmp_path.parent / f"{tmp_path.name}-link"
    link.symlink_to(tmp_path)
    Response.file("b.txt", root=link).close()


# ---------------------------------------------------------------------- conditions


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "field",
    [
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
        "If-Modified-Since: Mon, 07 Nov 1994 08:49:37 GMT",
        "If-None-Match: {etag}",
        'If-None-Match: "other", W/{etag}',
        "If-None-Match: *",
    ],
)
def test_a_copy_that_is_still_good_is_304(fetch: Fetch, page: Path, field: str, method: str) -> None:
    etag = fetch(page).headers["etag"]
    answer = fetch(page, field.format(etag=etag), method=method)
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == etag
    assert "content-length" not in answer.headers


@pytest.mark.parametrize(
    "fields",
    [
        ["If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT"],
        ["If-Modified-Since: nonsense"],
        ["If-Modified-Since: Sun, 99 Nov 1994 08:49:37 GMT"],
        ['If-None-Match: "other"'],
        # RFC 9110 §13.1.3: with If-None-Match, the date does not count
        ['If-None-Match: "other"', "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"],
    ],
)
def test_a_copy_that_is_out_of_date_is_sent_anew(fetch: Fetch, page: Path, fields: list[str]) -> None:
    assert fetch(page, *fields).status == 200


def test_conditions_are_for_get_and_head(fetch: Fetch, page: Path) -> None:
    assert fetch(page, "If-None-Match: *", method="POST").status == 200


def test_a_changed_file_has_another_tag(fetch: Fetch, page: Path) -> None:
    before = fetch(page).headers["etag"]
    os.utime(page, (WHEN, WHEN + 1))
    assert fetch(page).headers["etag"] != before


# ---------------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("wanted", "body", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
    ],
)
def test_a_range_is_206(fetch: Fetch, page: Path, wanted: str, body: bytes, content_range: str) -> None:
    answer = fetch(page, f"Range: {wanted}")
    assert (answer.status, answer.body, answer.headers["content-range"]) == (206, body, content_range)
    assert answer.headers["content-length"] == str(len(body))


def test_a_range_of_a_large_file(fetch: Fetch, big: Path) -> None:
    assert fetch(big, "Range: bytes=1000-200999").body == big.read_bytes()[1000:201000]


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_a_range_behind_the_end_is_416(fetch: Fetch, page: Path, wanted: str) -> None:
    answer = fetch(page, f"Range: {wanted}")
    assert (answer.status, answer.body, answer.headers["content-range"]) == (416, b"", "bytes */10")


@pytest.mark.parametrize("wanted", ["bytes=5-3", "bytes=-", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b", "bytes=1"])
def test_a_range_that_means_nothing_or_too_much_gets_the_whole(fetch: Fetch, page: Path, wanted: str) -> None:
    answer = fetch(page, f"Range: {wanted}")
    assert (answer.status, answer.body) == (200, b"0123456789")


def test_if_range(fetch: Fetch, page: Path) -> None:
    etag = fetch(page).headers["etag"]
    assert fetch(page, "Range: bytes=0-3", f"If-Range: {etag}").status == 206
    assert fetch(page, "Range: bytes=0-3", 'If-Range: "other"').status == 200


def test_a_file_that_shrinks_while_it_is_sent_is_cut_off(make_site: MakeSite, big: Path) -> None:
    os.truncate(big, 1 << 20)
    site = make_site(lambda request: Response.file(big))
    browser = site.browser()
    browser.send(get())
    site.world.run_for(1)  # as much as is queued for a client that does not read
    os.truncate(big, 1000)
    browser.until(lambda: browser.over)
    assert browser.reset


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("where", ["open", "guess_type"])
def test_without_descriptors_a_file_is_503_not_404(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, where: str
) -> None:
    """The types of files are read from files, too."""
    (tmp_path / "a.txt").write_bytes(b"hello")

    def fails(*args: object) -> None:
        raise OSError(code, "too many open files")

    monkeypatch.setattr(os if where == "open" else mimetypes, where, fails)
    with pytest.raises(HttpError) as caught:
        Response.file("a.txt", tmp_path)
    assert (caught.value.status, dict(caught.value.headers)) == (503, {"Retry-After": "1"})

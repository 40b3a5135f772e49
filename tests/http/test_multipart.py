"""Multipart forms: against a builder of bodies, against what peers make up, and where their files go."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gows.errors import HttpError
from gows.http import multipart as module
from gows.http.forms import MAX_FIELDS, UploadedFile, parse_multipart
from gows.http.multipart import MAX_PART_HEAD, MAX_PART_HEADERS, SPOOL_SIZE
from gows.http.request import Request
from gows.http1.headers import parse_parameters
from tests.support.http_site import Site, get

TYPE = "multipart/form-data; boundary=b"


def quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def part(disposition: str, content: bytes, *more: str, boundary: str = "b") -> bytes:
    head = "\r\n".join([f"Content-Disposition: form-data{disposition}", *more])
    return f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b--\r\n"


def parsed(content_type: str, body: bytes) -> tuple[int, int, int]:
    """How many fields and files were read, and their bytes; the status of a refusal, which is 400."""
    try:
        fields, files = parse_multipart(content_type, body)
    except HttpError as error:
        return error.status, 0, 0
    sizes = [len(value) for _, value in fields.items()] + [file.size for _, file in files.items()]
    return 400, len(sizes), sum(sizes)


def refused(content_type: str, body: bytes) -> str:
    with pytest.raises(HttpError) as caught:
        parse_multipart(content_type, body)
    assert caught.value.status == 400
    return caught.value.reason


# ---------------------------------------------------------------------- against a builder

names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)
boundaries = st.text("abcB019'()+_,-./:=?", min_size=1, max_size=70)
contents = st.one_of(
    st.binary(max_size=300), st.sampled_from([b"\r\n", b"\r\n--", b"--", b"\r", b"\r\n\r\n", b"x" * 70000])
)


@pytest.mark.slow
@given(
    boundary=boundaries,
    parts=st.lists(st.tuples(names, st.none() | names, contents, st.booleans()), max_size=8),
    preamble=st.sampled_from([b"", b"\r\n", b"preamble\r\n", b"-\r\n", b"\r\n-\r\n"]),
    epilogue=st.sampled_from([b"", b"\r\n", b"\r\nepilogue", b" --", b"\r\n--x"]),
)
@settings(max_examples=60)
def test_what_is_built_is_read(
    boundary: str,
    parts: list[tuple[str, str | None, bytes, bool]],
    preamble: bytes,
    epilogue: bytes,
) -> None:
    delimiter = f"--{boundary}".encode()
    parts = [one for one in parts if delimiter not in one[2]]
    body, fields, files = preamble if delimiter not in preamble else b"", [], []
    for name, filename, content, typed in parts:
        disposition = f"; name={quote(name)}" + ("" if filename is None else f"; filename={quote(filename)}")
        kind = ["Content-Type: image/PNG; a=b"] if typed else []
        body += part(disposition, content, *kind, boundary=boundary)
        if filename is None:
            fields.append((name, content.decode("utf-8", "replace")))
        else:
            files.append((name, UploadedFile(filename, "image/png" if typed else "text/plain", content)))
    body += delimiter + b"--" + epilogue
    got_fields, got_files = parse_multipart(f"multipart/form-data; x=y; boundary={quote(boundary)}", body)
    assert {name: got_fields.get_all(name) for name in got_fields} == grouped(fields)
    assert {name: got_files.get_all(name) for name in got_files} == grouped(files)


def grouped(pairs: Sequence[tuple[str, object]]) -> dict[str, list[object]]:
    values: dict[str, list[object]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


PIECES = st.sampled_from(
    [
        b"--b", b"\r\n--b", b"--b--", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b" ", b"-", b":", b";", b'"', b"\\", b"=",
        b"*", b"Content-Disposition: form-data", b"; name=a", b'; name="', b"; filename=x",
        b"; filename*=utf-8''%e4", b"Content-Type: ", b"text/plain", b"\0", b"\xff", b"x" * 5000, b"a=b",
    ]
)  # fmt: skip


@pytest.mark.slow
@given(st.lists(st.one_of(PIECES, st.binary(max_size=5)), max_size=25).map(b"".join), st.booleans())
@settings(max_examples=300)
@example(b"", False)
def test_what_a_peer_makes_up_is_read_or_400(middle: bytes, framed: bool) -> None:
    body = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n" + middle + b"\r\n--b--" if framed else middle
    status, count, size = parsed(TYPE, body)
    assert status == 400
    assert count <= 1 + body.count(b"--b")
    assert size <= len(body)


@pytest.mark.slow
@given(st.lists(st.one_of(PIECES, st.binary(max_size=5)), max_size=12).map(b"".join))
@settings(max_examples=200)
def test_any_disposition_is_read_or_400(value: bytes) -> None:
    body = b"--b\r\nContent-Disposition: form-data; " + value + b"\r\n\r\nx\r\n--b--"
    status, count, size = parsed(TYPE, body)
    assert status == 400
    assert count <= 1 + value.count(b"--b")
    assert size <= len(body)


@pytest.mark.slow
@given(st.lists(st.one_of(PIECES, st.binary(max_size=5)), max_size=12).map(b"".join))
@settings(max_examples=200)
def test_any_content_type_is_read_or_400(value: bytes) -> None:
    status, count, _ = parsed("multipart/form-data; " + value.decode("latin-1"), form(part("; name=a", b"x")))
    assert status == 400
    assert count <= 1


# ---------------------------------------------------------------------- what is refused, and what it costs


@pytest.mark.parametrize(
    "disposition",
    [
        "",
        "; name*=nonsense'en'x",
        "; name*=utf-7''+2AA-",
        "; name*=utf-16''%d8%00",
        "; name*0=a; name*1=b",
        "; name=a; name=b",
        "; name=a; filename*=idna''%ff.%ff",
        '; name="a',
        '; name="a" b',
        "; name=a; =b",
        "; name=a\0b",
        "; name=a\nb",
        "; name=a\r\nContent-Disposition: form-data; name=b",
        "; name=a\r\n folded",
        "; name=a\r\nno colon",
        "; name=a\r\n: no name",
        "; name=a" + "".join(f"\r\nX-{n}: x" for n in range(MAX_PART_HEADERS)),
        "; name=a\r\nX: " + "x" * MAX_PART_HEAD,
        "; name=a\r\nX: " + "x" * (MAX_PART_HEAD // 2) + "\r\nY: " + "x" * (MAX_PART_HEAD // 2),
        "; name=a\r\n" + "X" * MAX_PART_HEAD + ": x",
    ],
)
def test_a_malformed_part_is_400(disposition: str) -> None:
    refused(TYPE, form(part(disposition, b"x")))


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="b',
        'multipart/form-data; boundary="b "',
        "multipart/form-data; boundary=b; boundary=b",
        "multipart/form-data; boundary*=undefined''b",
        "multipart/form-data; boundary*0=b",
        "multipart/form-data; boundary=ä",
        "multipart/form-data; boundary=" + "b" * 71,
    ],
)
def test_a_malformed_boundary_is_400(content_type: str) -> None:
    refused(content_type, form(part("; name=a", b"x")))


@pytest.mark.parametrize("space", [b" ", b"\t"])
@pytest.mark.parametrize("at", [3, -4])
def test_white_space_behind_a_boundary_is_400(space: bytes, at: int) -> None:
    body = form(part("; name=a", b"x"))
    refused(TYPE, body[:at] + space + body[at:])


def test_names_that_are_not_ascii() -> None:
    fields, files = parse_multipart(
        TYPE,
        form(
            part('; name="Zoë"', b"1"),
            part("; name*=utf-8''Zo%C3%AB", b"2"),
            part("; name=f; filename*=UTF-8'de'na%c3%afve.txt", b"3"),
            part("; name=f; filename*=iso-8859-1''na%EFve.txt", b"4"),
            part("; name=f; filename=\"plain\"; filename*=utf-8''extended", b"5"),
            part('; name=f; filename="C:\\path\\a \\"b\\".txt"', b"6"),
            part("; name=f; filename=two words.txt ", b"7"),
            part('; ; NAME = f ; filename\t=\t"8"', b"8"),
        ),
    )
    assert fields.get_all("Zoë") == ["1", "2"]
    assert [file.filename for file in files.get_all("f")] == [
        "naïve.txt",
        "naïve.txt",
        "plain",
        'C:\\path\\a "b".txt',
        "two words.txt",
        "8",
    ]


@pytest.mark.parametrize("kind", ["", ";;;", "nonsense", "a/b/c", "text/ä", "a b/c"])
def test_a_type_that_is_none_is_text(kind: str) -> None:
    _, files = parse_multipart(TYPE, form(part("; name=a; filename=x", b"1", f"Content-Type: {kind}")))
    assert files["a"].content_type == "text/plain"


SIZE = 300_000
HEAD = b"--b\r\nContent-Disposition: form-data; name=a"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (TYPE, HEAD[:-1] + b'"' + b";" * SIZE + b"\r\n\r\nx\r\n--b--"),
        (TYPE, HEAD + b";" * SIZE + b"\r\n\r\nx\r\n--b--"),
        (TYPE, HEAD + b"; x" * SIZE + b"\r\n\r\nx\r\n--b--"),
        (TYPE, b"--b\r\n" + b"X: y\r\n" * (SIZE // 6) + b"\r\n\r\nx\r\n--b--"),
        (TYPE, b"--b\r\n" + b"X" * SIZE),
        (TYPE, b"--b" + b" " * SIZE),
        (TYPE, HEAD + b"\r\n\r\n" + b"\r\n--" * (SIZE // 4) + b"\r\n--b--"),
        (TYPE, HEAD + b"\r\n\r\n" + b"\r\n--bb" * (SIZE // 6) + b"\r\n--b--"),
        (TYPE, HEAD + b"\r\n\r\n" + b"\r\n--b " * (SIZE // 6) + b"\r\n--b--"),
        (TYPE, HEAD + b"\r\n\r\n" + b"\r" * SIZE + b"\r\n--b--"),
        (TYPE, (HEAD + b"\r\n\r\n\r\n") * 1000),
        (TYPE, b"\r\n" * SIZE + HEAD + b"\r\n\r\nx\r\n--b--"),
        (TYPE, b"\r\n-" * SIZE + HEAD + b"\r\n\r\nx\r\n--b--"),
        (TYPE, HEAD + b"\r\n\r\nx\r\n--b--" + b"\r\n--b" * SIZE),
        ('multipart/form-data; boundary="' + ";" * 16000, b"x"),
        ("multipart/form-data; boundary=b" + ";" * 16000, b"x"),
        ("multipart/form-data" + '; a="' * 4000, b"x"),
        ("multipart/form-data; a=" + "\\" * 16000 + "; boundary=b", b"x"),
        ("multipart/form-data; a=" + "[" * 16000 + "; boundary=b", b"x"),
        ("multipart/form-data;" + " " * 16000 + "x", b"x"),
        ("multipart/form-data" + " ;\t" * 5000 + "x", b"x"),
        ("multipart/form-data; boundary=" + "-" * 70, (b"\r\n--" + b"-" * 69) * (SIZE // 73)),
    ],
)
def test_no_form_costs_much_for_its_size(content_type: str, body: bytes) -> None:
    start = time.process_time()
    assert parsed(content_type, body)[0] == 400
    assert time.process_time() - start < 0.5


def test_too_many_parts_are_400_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    one = part("; name=a", b"")
    fields, _ = parse_multipart(TYPE, form(one * MAX_FIELDS))
    assert len(fields.get_all("a")) == MAX_FIELDS
    monkeypatch.setattr(module, "MultipartParser", None)
    assert refused(TYPE, form(one * (MAX_FIELDS + 1))) == "more than 1000 fields"


def test_what_is_malformed_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    refused(TYPE, b"--b\r\n: x\r\n\r\n--b--")
    refused(TYPE, b"--bx\r\n")
    assert not caplog.records


@pytest.mark.parametrize(
    ("value", "main", "parameters"),
    [
        ("", "", {}),
        ("text/plain", "text/plain", {}),
        (" text/plain ; charset = x ", "text/plain", {"charset": "x"}),
        ('a; B="c\\"d;e"; f', "a", None),
        ('a; b="c\\"d;e\\\\" ;c=d', "a", {"b": 'c"d;e\\', "c": "d"}),
        ("a; b=; c=d=e;;", "a", {"b": "", "c": "d=e"}),
        ("a; b=c d", "a", {"b": "c d"}),
        ("a; b=c; B=d", "a", None),
        ('a; b="c', "a", None),
        ('a; b="c\\"', "a", None),
        ('a; b=c"d', "a", None),
    ],
)
def test_parameters(value: str, main: str, parameters: dict[str, str] | None) -> None:
    assert parse_parameters(value) == (main, parameters)


# ---------------------------------------------------------------------- files


def test_a_file_is_on_disk_above_a_size() -> None:
    _, files = parse_multipart(
        TYPE,
        form(*(part(f"; name={n}; filename=x", b"x" * (SPOOL_SIZE + n)) for n in (0, 1))),
    )
    small, large = files["0"], files["1"]
    assert not small.file._rolled  # type: ignore[attr-defined]
    assert large.file._rolled  # type: ignore[attr-defined]
    assert large.file.fileno() > 2
    assert (small.size, large.size) == (SPOOL_SIZE, SPOOL_SIZE + 1)
    assert large.file.read(3) == b"xxx"
    assert large.content == b"x" * (SPOOL_SIZE + 1)
    assert large.file.tell() == 3
    for file in (small, large, small, large):
        file.close()
        assert file.file.closed
    assert small.content == b"x" * SPOOL_SIZE
    with pytest.raises(ValueError, match="was closed when its request was answered"):
        _ = large.content


def test_an_uploaded_file_is_still_a_triple() -> None:
    file = UploadedFile("a.txt", "text/plain", b"hello")
    filename, content_type, content = file
    assert (filename, content_type, content, file.size) == ("a.txt", "text/plain", b"hello", 5)
    assert file == UploadedFile("a.txt", "text/plain", b"hello")
    assert file != UploadedFile("a.txt", "text/plain", b"other")
    assert file != ("a.txt", "text/plain", b"hello")
    assert repr(file) == "UploadedFile('a.txt', 'text/plain', 5 bytes)"


def opened(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The files that are made from now on."""
    made: list[object] = []

    class Noted(module._Spool):
        def __init__(self, size: int) -> None:
            super().__init__(16)
            made.append(self)

    monkeypatch.setattr(module, "_Spool", Noted)
    return made


UPLOAD = form(part("; name=f; filename=x", b"x" * 100))


@pytest.mark.parametrize(
    "body",
    [UPLOAD[:-5], UPLOAD[:-10], UPLOAD[:-7] + part("", b""), UPLOAD[:-7] + part("; name=f; filename=x", b"y" * 20)],
)
def test_the_files_of_a_form_that_is_refused_are_closed(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    made = opened(monkeypatch)
    refused(TYPE, body)
    assert made
    assert all(file.closed for file in made)  # type: ignore[attr-defined]


def fails(request: Request) -> None:
    raise RuntimeError


def refuses(request: Request) -> None:
    raise HttpError(418, "no")


@pytest.mark.parametrize(
    ("then", "status"), [(lambda request: "done", 200), (fails, 500), (refuses, 418), (lambda request: None, 500)]
)
def test_files_are_closed_once_the_request_is_answered(
    make_site: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    then: Callable[[Request], object],
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = opened(monkeypatch)

    def view(request: Request) -> object:
        assert request.files["f"].file.read() == b"x" * 100
        return then(request)

    site = make_site(view)
    answer = site.fetch(get("/", f"Content-Type: {TYPE}", method="POST", body=UPLOAD))
    assert answer.status == status
    assert len(made) == 1
    assert made[0].closed  # type: ignore[attr-defined]


@pytest.mark.parametrize(("code", "status"), [(errno.EMFILE, 503), (errno.ENFILE, 503), (errno.ENOSPC, 500)])
def test_a_file_that_cannot_be_put_on_disk(
    make_site: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = opened(monkeypatch)

    def fails(*args: object, **more: object) -> None:
        raise OSError(code, "no file")

    monkeypatch.setattr(tempfile, "TemporaryFile", fails)
    site = make_site(lambda request: str(len(request.files)))
    answer = site.fetch(get("/", f"Content-Type: {TYPE}", method="POST", body=UPLOAD))
    assert answer.status == status
    assert answer.headers.get("retry-after") == ("1" if status == 503 else None)
    assert all(file.closed for file in made)  # type: ignore[attr-defined]
    assert ("OSError" in caplog.text) == (status == 500)

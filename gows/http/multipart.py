"""multipart/form-data bodies (RFC 7578), over python-multipart.

Strict before it is fast, as with heads: what is malformed, ambiguous or over a limit is 400. RFC 2231's continuations
(`filename*0=…`) and charsets other than UTF-8 and ISO-8859-1 are not understood, for RFC 7578 §4.2 forbids them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from gows.errors import HttpError
from gows.http1.headers import parse_parameters

MAX_PARTS = 1000
"""Fields and files in one form; more are answered with 400."""
MAX_PART_HEAD = 8192
"""Bytes of the header fields of one part."""
MAX_PART_HEADERS = 8
"""Header fields of one part; browsers send two."""
SPOOL_SIZE = 1 << 20
"""Bytes of a file that are kept in memory; a larger one goes to a temporary file."""
PIECE = 65536
"""Bytes written to a file at a time."""

_is_boundary = re.compile(r"[ -~]{0,69}[!-~]").fullmatch  # RFC 2046 §5.1.1, and what else is printed
_is_value = re.compile(rb"[\t -~\x80-\xff]*").fullmatch
_is_media_type = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+/[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_extended = re.compile(r"(utf-8|iso-8859-1)'[A-Za-z0-9\-]*'([!-~]*)", re.IGNORECASE).fullmatch

# The parser reports what is malformed twice: by its error, and to its logger. The peer's faults are not for our log.
_silent = logging.Logger("gows.multipart", logging.CRITICAL + 1)


class UploadedFile:
    """One file of a multipart form.

    `filename` is what the client says: never a path to open. `content_type`: what it says of that, else "text/plain".
    `file`: a binary file at its beginning, in memory or, from 1 MiB on, on disk. It is closed when the request is
    answered; to keep what is in it longer, copy it before. `size`: its bytes. One thread at a time.
    """

    __slots__ = ("_content", "content_type", "file", "filename", "size")

    def __init__(self, filename: str, content_type: str, content: bytes | BinaryIO = b"") -> None:
        """`content` is the content itself, or a file that has it and can seek."""
        self.filename = filename
        self.content_type = content_type
        self._content: bytes | None = None
        self.file: BinaryIO = BytesIO(content) if isinstance(content, bytes) else content
        self.size = self.file.seek(0, 2)
        self.file.seek(0)

    @property
    def content(self) -> bytes:
        """All of the file, read into memory. ValueError for one that was on disk and is closed."""
        if self._content is not None:
            return self._content
        if self.file.closed:
            raise ValueError(
                f"the file {self.filename!r} was closed when its request was answered; read it before that"
            )
        position = self.file.tell()
        self.file.seek(0)
        content = self.file.read()
        self.file.seek(position)
        return content

    def close(self) -> None:
        """Close the file; `content` still gives what was in memory. Idempotent."""
        if not self.file.closed:
            if self.size <= SPOOL_SIZE:
                self._content = self.content
            self.file.close()

    def __iter__(self) -> Iterator[Any]:
        """`filename, content_type, content = file`."""
        return iter((self.filename, self.content_type, self.content))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UploadedFile) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash((self.filename, self.content_type, self.size))

    def __repr__(self) -> str:
        return f"UploadedFile({self.filename!r}, {self.content_type!r}, {self.size} bytes)"


class _Spool(SpooledTemporaryFile[bytes]):
    """Closed without a warning when nobody has it any more: who asks a request for its form need not know of files."""

    def __del__(self) -> None:
        self.close()


class _Reader:
    """What the parser calls back; one part after the other."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []
        self.files: list[tuple[str, UploadedFile]] = []
        self.ended = False
        self._head = 0
        self._name = b""
        self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        self._content: BytesIO | _Spool = BytesIO()
        self._upload: tuple[str, str] | None = None
        self.open: _Spool | None = None

    def on_part_begin(self) -> None:
        if len(self.fields) + len(self.files) >= MAX_PARTS:
            raise HttpError(400, f"more than {MAX_PARTS} fields")
        self._head = 0
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def on_header_end(self) -> None:
        name = self._name.lower()
        if name in self._headers or _is_value(self._value) is None or len(self._headers) >= MAX_PART_HEADERS:
            raise malformed()
        self._headers[name] = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        # names are in UTF-8 as they are, not encoded (RFC 7578 §5.1)
        _, options = parse_parameters(self._headers.get(b"content-disposition", b"").decode("utf-8", "replace"))
        if options is None:
            raise malformed()
        name, filename = _text(options, "name"), _text(options, "filename")
        if name is None:
            raise malformed()
        self._field = name
        if filename is None:
            self._upload = None
            self._content = BytesIO()
        else:
            kind, _ = parse_parameters(self._headers.get(b"content-type", b"").decode("latin-1"))
            kind = kind.lower()
            self._upload = filename, kind if _is_media_type(kind) else "text/plain"  # RFC 7578 §4.4
            self._content = self.open = _Spool(SPOOL_SIZE)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        view = memoryview(data)
        for at in range(start, end, PIECE):
            self._content.write(view[at : min(at + PIECE, end)])

    def on_part_end(self) -> None:
        if self._upload is None:
            assert isinstance(self._content, BytesIO)
            self.fields.append((self._field, self._content.getvalue().decode("utf-8", "replace")))
        else:
            self.files.append((self._field, UploadedFile(*self._upload, cast(BinaryIO, self._content))))
            self.open = None

    def on_end(self) -> None:
        self.ended = True

    def close(self) -> None:
        """Close the files: nobody will get them."""
        if self.open is not None:
            self.open.close()
        for _, file in self.files:
            file.close()

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MAX_PART_HEAD:
            raise HttpError(400, f"a part of a multipart form has over {MAX_PART_HEAD} bytes of header fields")


def read_multipart(content_type: str, body: bytes) -> tuple[list[tuple[str, str]], list[tuple[str, UploadedFile]]]:
    """Return the fields and the files of a body. Raises HttpError (400), and OSError when a file cannot be spooled."""
    _, options = parse_parameters(content_type)
    boundary = "" if options is None else options.get("boundary", "")
    if not _is_boundary(boundary):
        raise HttpError(400, "multipart form without a boundary of 1 to 70 characters")
    delimiter = b"--" + boundary.encode("ascii")
    start = _first(body, delimiter)
    _check_delimiters(body, start, b"\r\n" + delimiter)
    reader = _Reader()
    callbacks: Any = {name: getattr(reader, name) for name in dir(reader) if name.startswith("on_")}
    parser = MultipartParser(boundary.encode("ascii"), callbacks)
    parser.logger = _silent
    try:
        parser.write(body[start:] if start else body)
        if not reader.ended:
            raise HttpError(400, "multipart form without its end")
    except FormParserError:
        reader.close()
        raise malformed() from None
    except BaseException:
        reader.close()
        raise
    return reader.fields, reader.files


def malformed() -> HttpError:
    """Return the refusal of a form."""
    return HttpError(400, "malformed part of a multipart form")


def _first(body: bytes, delimiter: bytes) -> int:
    """Return where the first boundary is; what stands before it counts as nothing (RFC 2046 §5.1.1)."""
    if body.startswith(delimiter):
        return 0
    found = body.find(b"\r\n" + delimiter)
    if found < 0:
        raise HttpError(400, "multipart form without its boundary")
    return found + 2


def _check_delimiters(body: bytes, start: int, delimiter: bytes) -> None:
    """Refuse too many parts before they are parsed, and white space behind a boundary: versions of the parser
    take that differently (RFC 2046 §5.1.1 lets mail relays add some; no client does)."""
    at = start
    parts = 0
    while (at := body.find(delimiter, at)) >= 0:
        at += len(delimiter)
        parts += 1
        if parts > MAX_PARTS:  # the last one is the end
            raise HttpError(400, f"more than {MAX_PARTS} fields")
        if body[at : at + 1] in (b" ", b"\t"):
            raise malformed()


def _text(options: dict[str, str], name: str) -> str | None:
    """Return a parameter, or its extended form (RFC 8187), which older clients send for names that are not ASCII."""
    plain = options.get(name)
    extended = options.get(name + "*")
    if plain is not None or extended is None:
        return plain
    found = _extended(extended)
    if found is None:
        raise malformed()
    return unquote_to_bytes(found[2]).decode(found[1], "replace")

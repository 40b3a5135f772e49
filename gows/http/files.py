"""A file as the body of an answer: measured, sent in pieces; conditional and range requests (RFC 9110 §13, §14)."""

from __future__ import annotations

import errno
import mimetypes
import os
import re
import stat
from collections.abc import Iterator
from typing import BinaryIO

from gows.errors import HttpError
from gows.http1.dates import format_date, parse_date
from gows.http1.headers import Headers

PIECE = 65536
"""Bytes read of a file at a time."""

_byte_range = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})").fullmatch


class FileBody:
    """An open regular file. Iterating reads the wanted part in pieces; `close` when done."""

    __slots__ = ("content_type", "etag", "file", "length", "modified", "size", "start")

    def __init__(self, path: str) -> None:
        """Open the file. Raises HttpError: 404 when there is no regular file that may be read, 503 when descriptors are
        used up."""
        try:
            kind, encoding = mimetypes.guess_type(path)  # reads files itself, the first time
            # non-blocking, for to open a FIFO would wait until somebody writes to it
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            if out_of_descriptors(error):
                raise unavailable() from None
            raise HttpError(404, "not found") from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise HttpError(404, "not found")
        self.file: BinaryIO = os.fdopen(descriptor, "rb", buffering=0)
        self.size = status.st_size
        self.start = 0
        self.length = self.size
        self.modified = int(status.st_mtime)
        self.etag = f'"{status.st_mtime_ns:x}-{self.size:x}"'
        self.content_type = "application/octet-stream" if kind is None or encoding is not None else kind
        if self.content_type.startswith("text/") or self.content_type == "application/javascript":
            self.content_type += "; charset=utf-8"

    def headers(self) -> list[tuple[str, str]]:
        """Return the fields that describe the file."""
        return [
            ("Last-Modified", format_date(self.modified)),
            ("ETag", self.etag),
            ("Accept-Ranges", "bytes"),
        ]

    def unchanged(self, headers: Headers) -> bool:
        """Return whether the client's copy is still good: If-None-Match, else If-Modified-Since (RFC 9110 §13.2.2)."""
        tags = headers.joined("if-none-match")
        if tags is not None:
            return tags == "*" or self.etag in [tag.strip(" \t").removeprefix("W/") for tag in tags.split(",")]
        since = headers.get("if-modified-since")
        date = None if since is None else parse_date(since)
        return date is not None and self.modified <= date

    def select(self, headers: Headers) -> str | None:
        """Take the one range that is asked for; its Content-Range, None for the whole file. Raises HttpError (416).

        More ranges at once, or a changed file (If-Range), get the whole file (RFC 9110 §14.2).
        """
        wanted = _byte_range(headers.get("range") or "")
        condition = headers.get("if-range")
        if wanted is None or wanted[0] == "bytes=-" or (condition is not None and condition != self.etag):
            return None
        first, last = wanted.groups()
        start, end = int(first or 0), min(int(last or self.size), self.size - 1)
        if not first:
            start, end = max(0, self.size - int(last)), self.size - 1
        elif last and int(last) < start:
            return None
        if start > end:
            raise HttpError(416, "no such range", (("Content-Range", f"bytes */{self.size}"),))
        self.start, self.length = start, end - start + 1
        return f"bytes {start}-{end}/{self.size}"

    def __iter__(self) -> Iterator[bytes]:
        self.file.seek(self.start)
        left = self.length
        while left:
            piece = self.file.read(min(PIECE, left))
            if not piece:  # the file shrank: fewer bytes than were announced, so the connection ends
                return
            left -= len(piece)
            yield piece

    def close(self) -> None:
        """Close the file. Idempotent."""
        self.file.close()


def out_of_descriptors(error: Exception) -> bool:
    """Return whether a file could not be opened since the process, or the system, has as many open as it may have."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def unavailable() -> HttpError:
    """Return the answer for the time in which descriptors are used up."""
    return HttpError(503, "too many files are open; try again", (("Retry-After", "1"),))


def path_below(root: str, path: str) -> str:
    """`path`, relative to `root`, as a real path (links resolved); HttpError (404) unless that lies below `root`."""
    try:
        top = os.path.realpath(root)
        below = os.path.join(top, path)
        os.lstat(below)  # what is not there, or too long, costs one call, not one for each of its segments
        real = os.path.realpath(below)
    except (OSError, ValueError):
        raise HttpError(404, "not found") from None
    if not real.startswith(top.rstrip(os.sep) + os.sep):
        raise HttpError(404, "not found")
    return real

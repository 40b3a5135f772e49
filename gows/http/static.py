"""StaticFolder: the files of a folder under a prefix."""

from __future__ import annotations

import os

from gows.errors import HttpError
from gows.http.files import path_below
from gows.http.request import Request
from gows.http.response import Response
from gows.http.router import Router


class StaticFolder:
    """Serves the regular files below a folder; "index.html" for a folder in it.

    What cannot be reached: anything outside, by "..", encoded or not, or by a symbolic link that leads out; names that
    begin with a dot, like .git or .env (.well-known can); what is neither file nor folder.
    """

    __slots__ = ("_folder", "_prefix")

    def __init__(self, prefix: str, folder: str | os.PathLike[str]) -> None:
        """Serve `folder` under a prefix. Raises ValueError when `folder` is none, or the prefix does not begin with a
        slash."""
        self._folder = os.path.realpath(os.fspath(folder))
        if not os.path.isdir(self._folder):
            raise ValueError(f"{os.fspath(folder)} is no folder")
        self._prefix = prefix.rstrip("/")

    def register(self, router: Router) -> None:
        """Take the paths below the prefix."""
        router.add(self._prefix + "/{rest:path}", self)

    def __call__(self, request: Request, rest: str) -> Response:
        """Answer with the file at `rest`, the decoded path below the prefix."""
        segments = rest.split("/")
        if segments[-1] == "":
            segments[-1] = "index.html"
        for segment in segments:
            if not segment or "\\" in segment or (segment[0] == "." and segment != ".well-known"):
                raise HttpError(404, "not found")
        path = os.path.join(*segments)
        if os.path.isdir(path_below(self._folder, path)):
            # a browser takes a folder's relative links from behind its slash. The Location cannot name another host:
            # a path of two slashes at its start was refused above
            query = f"?{request.query_string}" if request.query_string else ""
            return Response.redirect(request.raw_path + "/" + query, 301)
        return Response.file(path, root=self._folder)

"""Failing: what is said, and with which status `gows serve` ends, when it cannot serve."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gows.commands.serving.application import LoadError, print_cause
from gows.commands.serving.options import OptionError
from gows.errors import StartupError


class Status:
    """An exit status: 0 until something fails."""

    def __init__(self) -> None:
        self.value = 0

    def __int__(self) -> int:
        return self.value


@contextmanager
def failures() -> Iterator[Status]:
    """Give the exit status of what is done in the context. What fails is said on one line, behind the traceback of the
    application's code if it failed there."""
    status = Status()
    try:
        yield status
    except OptionError as error:
        status.value = _say(error, 2)
    except LoadError as error:
        print_cause(error)
        status.value = _say(error, 1)
    except StartupError as error:
        print_cause(error)
        status.value = _say(f"the application could not start: {error}", 3)
    except OSError as error:
        status.value = _say(error.strerror or error, 1)


def _say(what: object, status: int) -> int:
    print("gows serve:", " ".join(str(what).split()), file=sys.stderr)
    return status

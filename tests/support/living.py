"""Which objects are there: for finding what is kept, and what waits for the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def living(*kinds: type) -> list[Any]:
    """The objects of these types, garbage that waits for the collector included."""
    return [found for found in gc.get_objects() if type(found) in kinds]


@contextmanager
def no_collector() -> Iterator[None]:
    """Without the garbage collector: what is let go goes at once, or it is part of a circle and stays."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

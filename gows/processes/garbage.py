"""What the collector of garbage need not look through, so that it pauses less where there are very many connections."""

from __future__ import annotations

import gc


def set_aside() -> None:
    """Collect, then have later collections pass over all that is there now: modules, functions, an app's tables.

    For a process whose work is to serve, once it is set up. What is reachable now and becomes part of a cycle of
    garbage later is not freed any more; everything made later is, as ever. A full collection beside 15,000 connections
    takes 6 ms after it instead of 13.
    """
    gc.collect()
    gc.freeze()

"""Keys of messages, by which a later message takes the place of one that waits, as they travel between processes."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Hashable
from typing import Any


def pack_key(key: Hashable) -> Any:
    """Return `key` as JSON can write it. Raises TypeError for a key that means something in this process only."""
    if key is None or isinstance(key, str | int | float):
        return key
    if isinstance(key, bytes):
        return {"bytes": b64encode(key).decode()}
    if isinstance(key, tuple):
        return [pack_key(part) for part in key]
    raise TypeError(
        f"a key for other processes is a str, a number, bytes, or a tuple of these, not {type(key).__name__}: {key!r}"
    )


def unpack_key(packed: Any) -> Hashable:
    """Return the key that `pack_key` made `packed` of. Raises ValueError for what it did not make."""
    if packed is None or isinstance(packed, str | int | float):
        return packed
    if isinstance(packed, list):
        return tuple(unpack_key(part) for part in packed)
    if isinstance(packed, dict) and isinstance(packed.get("bytes"), str):
        return b64decode(packed["bytes"])
    raise ValueError(f"this is no key: {packed!r}")

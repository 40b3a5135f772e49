"""Keys of messages travel between processes as JSON, and mean the same there."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import pytest

from gows.keys import pack_key, unpack_key


@pytest.mark.parametrize(
    "key", [None, "gold", "", 1, -5, 2.5, True, b"\xff\x00", ("a", 1), (), (("a", b"b"), (None, 1.5)), "\ud83d"]
)
def test_a_key_is_the_same_there(key: Hashable) -> None:
    there = unpack_key(json.loads(json.dumps(pack_key(key))))

    assert there == key
    assert type(there) is type(key)
    assert hash(there) == hash(key)


@pytest.mark.parametrize("key", [frozenset({1}), object(), ("a", object()), range(3)])
def test_a_key_that_means_something_here_only_is_refused(key: Hashable) -> None:
    with pytest.raises(TypeError, match="a key for other processes is a str, a number, bytes, or a tuple of these"):
        pack_key(key)


@pytest.mark.parametrize("packed", [{}, {"bytes": 1}, {"a": "b"}, [{}], {"bytes": "abc"}])
def test_what_is_no_key_is_refused(packed: Any) -> None:
    with pytest.raises(ValueError, match=r"no key|[Pp]adding"):
        unpack_key(packed)

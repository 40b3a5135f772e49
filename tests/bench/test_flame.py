"""What py-spy says is counted by function, with what each calls."""

from __future__ import annotations

from bench.flame import shares


def test_a_function_counts_once_a_stack_with_what_it_calls() -> None:
    raw = (
        "main (a.py:1);read (b.py:7);recv (libc.so.6) 6\nmain (a.py:2);read (b.py:9);read (b.py:7) 3\nmain (a.py:1) 1\n"
    )
    assert shares(raw) == {"main (a.py)": 1.0, "read (b.py)": 0.9, "recv (libc.so.6)": 0.6}


def test_no_samples_are_no_shares() -> None:
    assert shares("") == {}

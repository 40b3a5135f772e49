"""What perf says is counted by function, with what each calls, and drawn."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench.flame import draw, plain_name, shares, stacks


def block(*frames: str) -> str:
    """A sample as perf script prints it, what called first first."""
    lines = [f"\t    ffff8205916{at} {frame}" for at, frame in enumerate(reversed(frames))]
    return "\n".join(["python ", *lines])


TURN = ("clone3 (/lib/libc.so.6)", "thread_run (/lib/libpython3.11.so.1.0)", "turn (/x/turn.cpython-311.so)")
SCRIPT = "\n\n".join(
    [block(*TURN, "_PyEval_Vector (/lib/libpython3.11.so.1.0)", "read (/lib/libc.so.6)", "recv ([kernel.kallsyms])")]
    * 6
    + [block(*TURN, "read (/lib/libc.so.6)", "_read (inlined)", "read (/lib/libc.so.6)")] * 3
    + [block(*TURN)]
    + [""]
)


def test_a_function_counts_once_a_stack_with_what_it_calls() -> None:
    found = stacks(SCRIPT)
    assert sum(found.values()) == 10
    assert shares(found) == {"turn (turn.cpython-311.so)": 1.0, "read (libc.so.6)": 0.9, "recv (kernel.kallsyms)": 0.6}


def test_no_samples_are_no_shares() -> None:
    assert shares(stacks("")) == {}
    assert "<svg" in draw({}, "nothing")


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("__pyx_f_4gows_7reactor_6stream_6Stream_flush_locked", "Stream.flush_locked"),
        ("__pyx_pw_4gows_7reactor_6stream_6Stream_29flush_dirty", "Stream.flush_dirty"),
        ("__pyx_f_4gows_7reactor_4turn_deliver", "turn.deliver"),
        ("__pyx_pw_4gows_7reactor_4turn_1deliver", "turn.deliver"),
        ("__pyx_pw_4gows_9websocket_9WebSocket_7write_string", "WebSocket.write_string"),
        ("__pyx_f_4gows_7session_7Session__deliver", "Session._deliver"),
        ("__pyx_tp_dealloc_x", "__pyx_tp_dealloc_x"),
        ("tcp_sendmsg", "tcp_sendmsg"),
    ],
)
def test_names_are_those_of_the_source(symbol: str, name: str) -> None:
    assert plain_name(symbol) == name


def test_the_picture_has_a_box_for_each_as_wide_as_its_part() -> None:
    space = "{http://www.w3.org/2000/svg}"
    svg = ElementTree.fromstring(draw(stacks(SCRIPT), "a <title> & more"))
    boxes = {
        group[0].text: (float(group[1].attrib["width"]), float(group[1].attrib["y"])) for group in svg.iter(f"{space}g")
    }
    names = ("turn (turn.cpython-311.so): 100.0%", "read (libc.so.6): 90.0%", "recv (kernel.kallsyms): 60.0%")
    turn, read, recv = (boxes[name] for name in names)
    assert (turn[0], read[0], recv[0]) == (1200.0, 1080.0, 720.0)
    assert turn[1] > read[1] > recv[1]

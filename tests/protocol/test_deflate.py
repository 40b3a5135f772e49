from __future__ import annotations

import importlib.util
import random
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

import pytest

from gows.errors import HandshakeError, ProtocolError
from gows.protocol import deflate
from gows.protocol.deflate import (
    DeflateOptions,
    DeflateParams,
    DeflatePool,
    PerMessageDeflate,
    accept_answer,
    make_offer,
    negotiate,
)
from gows.protocol.extensions import parse_extensions
from tests.support.needs import need_module

ANY = DeflateOptions(server_no_context_takeover=False, client_no_context_takeover=False)
STRICT = DeflateOptions()
SNCT, CNCT = "server_no_context_takeover", "client_no_context_takeover"
SMWB, CMWB = "server_max_window_bits", "client_max_window_bits"
PMD = "permessage-deflate"

library: ModuleType = zlib
"""What the tests compress with: zlib, and zlib-ng, whose messages zlib judges."""


@pytest.fixture(autouse=True, params=["zlib", "zlib_ng.zlib_ng"])
def _choose_library(request: pytest.FixtureRequest) -> None:
    global library
    library = need_module(request.param)


def pool_of_library() -> DeflatePool:
    return DeflatePool(library)


def test_zlib_does_where_zlib_ng_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zlib_ng", None)
    spec = importlib.util.spec_from_file_location("without_zlib_ng", deflate.__file__)
    assert spec is not None
    assert spec.loader is not None
    without = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "without_zlib_ng", without)
    spec.loader.exec_module(without)
    assert without.LIBRARY is zlib
    assert deflate.LIBRARY is need_module("zlib_ng.zlib_ng")


# the server's side of the agreement


@pytest.mark.parametrize(
    ("offer", "options", "answer", "params"),
    [
        # nothing asked
        ("", ANY, "", DeflateParams()),
        ("", STRICT, f"; {SNCT}; {CNCT}", DeflateParams(True, True)),
        # what is asked is granted
        (f"; {SNCT}", ANY, f"; {SNCT}", DeflateParams(True, False)),
        (f"; {CNCT}", ANY, f"; {CNCT}", DeflateParams(False, True)),
        (f"; {SMWB}=10", ANY, f"; {SMWB}=10", DeflateParams(False, False, 10, 15)),
        (f"; {SMWB}=15", ANY, f"; {SMWB}=15", DeflateParams()),
        (f"; {SMWB}=8", ANY, f"; {SMWB}=8", DeflateParams(False, False, 8, 15)),
        (f'; {SMWB}="12"', ANY, f"; {SMWB}=12", DeflateParams(False, False, 12, 15)),
        # a hint that the client can limit itself is used only when wanted
        (f"; {CMWB}", ANY, "", DeflateParams()),
        (f"; {CMWB}=15", ANY, "", DeflateParams()),
        (f"; {CMWB}=9", ANY, f"; {CMWB}=9", DeflateParams(False, False, 15, 9)),
        (f"; {CMWB}=8", ANY, f"; {CMWB}=8", DeflateParams(False, False, 15, 8)),
        # what we want
        (f"; {CMWB}", replace(ANY, client_max_window_bits=10), f"; {CMWB}=10", DeflateParams(False, False, 15, 10)),
        (f"; {CMWB}=12", replace(ANY, client_max_window_bits=10), f"; {CMWB}=10", DeflateParams(False, False, 15, 10)),
        (f"; {CMWB}=9", replace(ANY, client_max_window_bits=10), f"; {CMWB}=9", DeflateParams(False, False, 15, 9)),
        ("", replace(ANY, client_max_window_bits=10), "", DeflateParams()),  # §7.1.2.2: may not be answered unasked
        ("", replace(ANY, server_max_window_bits=11), f"; {SMWB}=11", DeflateParams(False, False, 11, 15)),
        (f"; {SMWB}=13", replace(ANY, server_max_window_bits=11), f"; {SMWB}=11", DeflateParams(False, False, 11, 15)),
        (f"; {SMWB}=9", replace(ANY, server_max_window_bits=11), f"; {SMWB}=9", DeflateParams(False, False, 9, 15)),
        (f"; {SMWB}=9; {CNCT}; {CMWB}", STRICT, f"; {SNCT}; {CNCT}; {SMWB}=9", DeflateParams(True, True, 9, 15)),
    ],
)
def test_the_server_answers(offer: str, options: DeflateOptions, answer: str, params: DeflateParams) -> None:
    assert negotiate(parse_extensions(PMD + offer), options) == (PMD + answer, params)


BAD_PARAMS = [
    "; unknown",
    "; unknown=1",
    f"; {SNCT}; {SNCT}",
    f"; {CNCT}; {CNCT}",
    f"; {SMWB}=9; {SMWB}=9",
    f"; {CMWB}; {CMWB}=9",
    f"; {SNCT}=1",
    f"; {CNCT}=true",
    f"; {SMWB}",
    f"; {SMWB}=7",
    f"; {SMWB}=16",
    f"; {SMWB}=0",
    f"; {SMWB}=010",
    f"; {SMWB}=08",
    f"; {SMWB}=1e1",
    f"; {SMWB}=-9",
    f"; {SMWB}=+9",
    f"; {SMWB}=abc",
    f"; {SMWB}=" + "9" * 5000,
    f"; {CMWB}=7",
    f"; {CMWB}=16",
    f"; {CMWB}=x",
]


@pytest.mark.parametrize("params", BAD_PARAMS, ids=lambda params: params[2:40])
def test_bad_parameters_are_declined_and_the_next_offer_is_looked_at(params: str) -> None:
    """Also the undici crash on server_max_window_bits (CVE-2026-2229)."""
    assert negotiate(parse_extensions(PMD + params), ANY) is None
    answer = negotiate(parse_extensions(f"{PMD}{params}, {PMD}; {SMWB}=9, {PMD}"), ANY)
    assert answer == (f"{PMD}; {SMWB}=9", DeflateParams(False, False, 9, 15))


def test_other_extensions_are_declined() -> None:
    assert negotiate(parse_extensions("x-webkit-deflate-frame, mux; a=1"), ANY) is None
    assert negotiate([], ANY) is None
    assert negotiate(parse_extensions(f"mux, {PMD}"), ANY) == (PMD, DeflateParams())


# the client's side


@pytest.mark.parametrize(
    ("options", "offer"),
    [
        (ANY, f"{PMD}; {CMWB}"),
        (STRICT, f"{PMD}; {SNCT}; {CNCT}; {CMWB}"),
        (replace(ANY, client_max_window_bits=9), f"{PMD}; {CMWB}=9"),
        (replace(ANY, server_max_window_bits=10), f"{PMD}; {CMWB}; {SMWB}=10, {PMD}; {CMWB}"),
    ],
)
def test_the_client_offers(options: DeflateOptions, offer: str) -> None:
    assert make_offer(options) == offer


@pytest.mark.parametrize(
    ("options", "answer", "params"),
    [
        (ANY, "", DeflateParams()),
        (ANY, f"; {SNCT}; {CNCT}", DeflateParams(True, True)),
        (ANY, f"; {SMWB}=8; {CMWB}=8", DeflateParams(False, False, 8, 8)),
        (ANY, f"; {SMWB}=15; {CMWB}=15", DeflateParams()),
        (STRICT, f"; {SNCT}", DeflateParams(True, True)),  # we keep none, asked or not
        (STRICT, "", DeflateParams(False, True)),  # it keeps its window, though it was asked not to
        (replace(ANY, client_max_window_bits=10), "", DeflateParams(False, False, 15, 10)),
        (replace(ANY, client_max_window_bits=10), f"; {CMWB}=9", DeflateParams(False, False, 15, 9)),
        (replace(ANY, server_max_window_bits=10), f"; {SMWB}=9", DeflateParams(False, False, 9, 15)),
        (replace(ANY, server_max_window_bits=10), f"; {SMWB}=12", DeflateParams(False, False, 12, 15)),  # the fallback
    ],
)
def test_the_client_accepts(options: DeflateOptions, answer: str, params: DeflateParams) -> None:
    assert accept_answer(parse_extensions(PMD + answer), options) == params


@pytest.mark.parametrize(
    ("options", "answer", "text"),
    [
        *[(ANY, PMD + params, "answer is wrong") for params in BAD_PARAMS],
        (ANY, f"{PMD}; {CMWB}", "needs a value"),
        (replace(ANY, client_max_window_bits=10), f"{PMD}; {CMWB}=11", "larger than offered"),
        (ANY, "mux", "not offered: mux"),
        (None, PMD, "not offered"),
        (ANY, f"{PMD}, {PMD}", "more than one"),
        (ANY, f"{PMD}, mux", "more than one"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_client_fails_the_connection(options: DeflateOptions | None, answer: str, text: str) -> None:
    with pytest.raises(HandshakeError, match=text):
        accept_answer(parse_extensions(answer), options)


def test_no_answer_is_no_compression() -> None:
    assert accept_answer([], ANY) is None
    assert accept_answer([], None) is None


def test_both_roles_come_to_the_same_agreement() -> None:
    bits = (8, 9, 12, 15)
    takeover = [
        DeflateOptions(server_no_context_takeover=s, client_no_context_takeover=c, server_max_window_bits=sb)
        for s in (False, True)
        for c in (False, True)
        for sb in bits
    ]
    for client_options in takeover:
        for server_options in takeover:
            for client_bits in bits:
                ours = replace(client_options, client_max_window_bits=client_bits)
                theirs = replace(server_options, client_max_window_bits=24 - client_bits if client_bits > 9 else 15)
                chosen = negotiate(parse_extensions(make_offer(ours)), theirs)
                assert chosen is not None
                answer, params = chosen
                assert accept_answer(parse_extensions(answer), ours) == params


@pytest.mark.parametrize("field", ["level", "mem_level", "server_max_window_bits", "client_max_window_bits"])
def test_options_out_of_range_are_refused(field: str) -> None:
    for value in (0, 16):
        changes: dict[str, Any] = {field: value}
        with pytest.raises(ValueError, match=field):
            DeflateOptions(**changes)


# the codec

NO_TAKEOVER = DeflateParams(True, True)
TAKEOVER = DeflateParams()


def codecs(params: DeflateParams, options: DeflateOptions = STRICT) -> tuple[PerMessageDeflate, PerMessageDeflate]:
    """The server's and the client's."""
    return (
        pool_of_library().codec(params, options, server=True),
        pool_of_library().codec(params, options, server=False),
    )


def inflate(codec: PerMessageDeflate, pieces: Iterable[bytes], limit: int = 1 << 24) -> bytes:
    inflater = codec.inflater(limit)
    out = bytearray()
    for piece in pieces:
        for chunk in inflater.feed(piece):
            out += chunk
    inflater.finish()
    return bytes(out)


@cache
def corpus() -> tuple[bytes, ...]:
    rng = random.Random(7)
    words = [rng.randbytes(rng.randrange(1, 9)) for _ in range(40)]
    return (
        b"",
        b"a",
        b"Hello",
        b"\x00" * 300_000,
        rng.randbytes(70_000),
        b"".join(rng.choice(words) for _ in range(30_000)),
        b"",
        b"Hello",
    )


@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("takeover", [False, True])
def test_messages_survive(takeover: bool, bits: int, level: int) -> None:
    params = DeflateParams(not takeover, not takeover, bits, bits)
    for ours, theirs in (
        codecs(params, DeflateOptions(level=level)),
        codecs(params, DeflateOptions(level=level))[::-1],
    ):
        for message in corpus():
            assert inflate(theirs, [ours.compress(message)]) == message


@pytest.mark.parametrize("bits", range(8, 16))
def test_nothing_points_back_further_than_the_window(bits: int) -> None:
    """The judge is a plain zlib with exactly that window, fed byte by byte so that it has nothing else to look at."""

    def judge(wire: bytes) -> bytes:
        stream = zlib.decompressobj(-bits)
        return b"".join(stream.decompress(wire[i : i + 1]) for i in range(len(wire)))

    block = random.Random(bits).randbytes((1 << bits) + 40)  # repeats itself just out of reach
    for server in (True, False):
        codec = pool_of_library().codec(DeflateParams(True, True, bits, bits), DeflateOptions(level=9), server=server)
        assert judge(codec.compress(block * 2)) == block * 2
        wider = DeflateParams(True, True, bits + 1, bits + 1)
        if 8 < bits < 15:  # zlib with 9 happens to reach no further than 250 bytes
            reaching = pool_of_library().codec(wider, DeflateOptions(level=9), server=server).compress(block * 2)
            with pytest.raises(zlib.error, match="too far back"):
                judge(reaching)


@pytest.mark.parametrize("params", [NO_TAKEOVER, TAKEOVER])
def test_a_message_may_come_in_any_pieces(params: DeflateParams) -> None:
    ours, theirs = codecs(params)
    for message in corpus():
        wire = ours.compress(message)
        size = max(1, len(wire) // 997)
        assert inflate(theirs, [wire[i : i + size] for i in range(0, len(wire), size)]) == message


@pytest.mark.parametrize("params", [NO_TAKEOVER, TAKEOVER])
@pytest.mark.parametrize("parts", [[b"a", b"b"], [b"", b"x", b""], [b"", b""], [b"abc" * 9, b"", b"abc" * 9, b""]])
def test_fragments_make_one_message(params: DeflateParams, parts: list[bytes]) -> None:
    ours, theirs = codecs(params)
    for _ in range(3):
        wire = [ours.compress(part, i == len(parts) - 1) for i, part in enumerate(parts)]
        assert inflate(theirs, wire) == b"".join(parts)
        assert inflate(theirs, [ours.compress(b"between")]) == b"between"


@pytest.mark.parametrize(
    ("wires", "text"),
    [
        # RFC 7692 §7.2.3
        (["f248cdc9c90700"], "Hello"),  # 1: one block
        (["f248", "cdc9c90700"], "Hello"),  # 1: two fragments
        (["f248cdc9c90700", "f200110000"], "HelloHello"),  # 2: with takeover, as two messages
        (["000500faff48656c6c6f00"], "Hello"),  # 3: no compression
        (["f348cdc9c9070000"], "Hello"),  # 4: BFINAL
        (["f248050000 00ffffcac9c90700"], "Hello"),  # 5: two blocks
        (["00"], ""),  # 6: empty
    ],
)
def test_the_examples_of_the_rfc(wires: list[str], text: str) -> None:
    _, codec = codecs(TAKEOVER)
    if text == "HelloHello":
        assert b"".join(inflate(codec, [bytes.fromhex(wire)]) for wire in wires) == text.encode()
    else:
        assert inflate(codec, [bytes.fromhex(wire) for wire in wires]) == text.encode()


def test_the_empty_message_is_one_byte() -> None:
    for params in (NO_TAKEOVER, TAKEOVER):
        codec, _ = codecs(params)
        for _ in range(3):
            assert codec.compress(b"") == b"\x00"
            codec.compress(b"abc")


def final_block(text: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return compressor.compress(text) + compressor.flush()


@pytest.mark.parametrize("params", [NO_TAKEOVER, TAKEOVER])
def test_final_blocks_do_not_end_a_message(params: DeflateParams) -> None:
    """Nor may what follows them be lost, or be taken for another message (CVE-2026-87022)."""
    _, codec = codecs(params)
    wire = final_block(b"one ") + final_block(b"") + final_block(b"two") + b"\x00"
    for pieces in ([wire], [wire[i : i + 1] for i in range(len(wire))], [wire[:9], b"", wire[9:]]):
        assert inflate(codec, pieces) == b"one two"
    mixed = final_block(b"one ") + bytes.fromhex("f248cdc9c90700")
    assert inflate(codec, [mixed]) == b"one Hello"
    assert inflate(codec, [bytes.fromhex("f248cdc9c90700")]) == b"Hello"


def test_endless_final_blocks_are_refused() -> None:
    _, codec = codecs(NO_TAKEOVER)
    few = b"\x03\x00" * 128
    assert inflate(codec, [few + b"\x00"]) == b""
    with pytest.raises(ProtocolError, match="final blocks") as caught:
        inflate(codec, [few + b"\x03\x00"])
    assert caught.value.close_code == 1008


@pytest.mark.parametrize("params", [NO_TAKEOVER, TAKEOVER])
@pytest.mark.parametrize(
    "wire",
    [
        b"",  # not even a block header
        final_block(b"Hello"),  # ends with no empty block to cut the tail from
        b"\x03\x00",
        bytes.fromhex("000500faff48656c6c6f"),  # ends with a stored block that is not empty
        bytes.fromhex("000900f6ff48656c6c6f"),  # the tail would be taken for its data, and then the end is missing
        bytes.fromhex("000a00f5ff48656c6c6f"),
        bytes.fromhex("f248cdc9c907"),
        bytes.fromhex("f248cd"),
        b"\x00\x05",
    ],
)
def test_a_message_that_is_cut_short_is_refused(params: DeflateParams, wire: bytes) -> None:
    _, codec = codecs(params)
    with pytest.raises(ProtocolError) as caught:
        inflate(codec, [wire])
    assert caught.value.close_code == 1007


def test_every_cut_of_a_message_is_refused_or_visible() -> None:
    """A cut may leave a shorter valid message only where a block ends, and then it is the message's beginning."""
    for params in (NO_TAKEOVER, TAKEOVER):
        sender, _ = codecs(params)
        message = b"It was the best of times, it was the worst of times"
        wire = sender.compress(message)
        for cut in range(len(wire)):
            _, codec = codecs(params)
            with pytest.raises(ProtocolError) as caught:
                inflate(codec, [wire[:cut]])
            assert caught.value.close_code == 1007


@pytest.mark.parametrize(
    "wire", [b"\x06\x00", b"\xff" * 20, b"\x07", b"\x00\x05\x00\x05\x00hello\x00", b"\x04\x80\xff"]
)
def test_corrupt_data_is_refused_without_telling_internals(wire: bytes) -> None:
    _, codec = codecs(NO_TAKEOVER)
    with pytest.raises(ProtocolError) as caught:
        inflate(codec, [wire])
    assert caught.value.close_code == 1007
    assert "zlib" not in caught.value.reason
    assert "Error" not in caught.value.reason


def test_a_window_that_reaches_before_the_message_shows_nothing() -> None:
    """Without takeover a message's inflater has never seen another message's bytes."""
    pool = pool_of_library()
    codec = pool.codec(NO_TAKEOVER, STRICT, server=True)
    secret = b"the secret of another connection"
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=secret)
    stolen = compressor.compress(secret) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert inflate(codec, [pool.codec(NO_TAKEOVER, STRICT, server=False).compress(secret)]) == secret
    with pytest.raises(ProtocolError) as caught:
        inflate(codec, [stolen[:-4]])
    assert caught.value.close_code == 1007


def test_the_limit_is_on_what_comes_out() -> None:
    """CVE-2026-54464: not on what came in. Exactly the limit passes, one byte more does not."""
    sender, codec = codecs(NO_TAKEOVER)
    for size in (0, 1, 5, 1000, 65535, 65536, 65537, 300_000):
        for message in (b"\x00" * size, random.Random(size).randbytes(size)):
            wire = sender.compress(message)
            assert inflate(codec, [wire], limit=size) == message
            assert inflate(codec, [wire[i : i + 7] for i in range(0, len(wire), 7)], limit=size) == message
            if size:
                with pytest.raises(ProtocolError) as caught:
                    inflate(codec, [wire], limit=size - 1)
                assert caught.value.close_code == 1009


def test_a_bomb_never_takes_more_than_the_limit_and_a_chunk() -> None:
    """CVE-2018-1000518, CVE-2021-21419, CVE-2026-39804, CVE-2026-5680, CVE-2026-62963, CVE-2026-1526."""
    sender = DeflatePool(zlib).codec(NO_TAKEOVER, STRICT, server=False)  # packs tighter than zlib-ng
    _, codec = codecs(NO_TAKEOVER)
    bomb = sender.compress(b"\x00" * (64 << 20))
    assert len(bomb) < 1 << 19
    limit = 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as caught:
            inflate(codec, [bomb], limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.close_code == 1009
    assert peak < 4 * (len(bomb) + limit)


def test_what_zlib_could_not_hand_out_at_once_is_not_lost() -> None:
    """A few input bytes that are consumed whole may still hold output back when a chunk is full."""
    sender, codec = codecs(NO_TAKEOVER)
    for extra in range(-300, 300, 7):
        message = b"a" * (deflate._CHUNK + extra)
        wire = sender.compress(message)
        assert inflate(codec, [wire]) == message
        assert inflate(codec, [wire[:-1], wire[-1:]]) == message


# sharing


def test_connections_without_takeover_share_one_codec_and_one_compressor() -> None:
    pool = pool_of_library()
    codec = pool.codec(NO_TAKEOVER, STRICT, server=True)
    assert pool.codec(NO_TAKEOVER, STRICT, server=True) is codec
    assert pool.codec(NO_TAKEOVER, STRICT, server=False) is not codec
    assert pool.codec(NO_TAKEOVER, DeflateOptions(level=9), server=True) is not codec
    other = pool.codec(DeflateParams(True, True, 10, 10), STRICT, server=True)
    assert other is not codec
    for _ in range(3):
        codec.compress(b"x" * 100)
        other.compress(b"x" * 100)
    assert [len(free) for free in pool._free.values()] == [1, 1]


def test_connections_with_takeover_share_nothing() -> None:
    pool = pool_of_library()
    for params in (TAKEOVER, DeflateParams(True, False), DeflateParams(False, True)):
        assert pool.codec(params, STRICT, server=True) is not pool.codec(params, STRICT, server=True)


def test_a_shared_compressor_never_points_into_another_message() -> None:
    """The seed's shared state let one connection's bytes meet another's."""
    pool = pool_of_library()
    first, second = pool.codec(NO_TAKEOVER, STRICT, server=True), pool.codec(NO_TAKEOVER, ANY, server=True)
    text = random.Random(1).randbytes(500)
    for codec in (first, second, first):
        alone = zlib.decompressobj(-15)
        assert alone.decompress(codec.compress(text) + b"\x00\x00\xff\xff") == text


def test_takeover_makes_repeated_messages_small_and_state_is_made_when_needed() -> None:
    ours, theirs = codecs(TAKEOVER)
    assert ours._compressor is None
    assert theirs._stream is None
    text = random.Random(1).randbytes(500)
    first, second = ours.compress(text), ours.compress(text)
    assert len(second) < 30 < len(first)
    assert inflate(theirs, [first]) == inflate(theirs, [second]) == text


def test_one_side_may_keep_its_window_while_the_other_does_not() -> None:
    server_codec, client_codec = codecs(DeflateParams(server_no_context_takeover=True))
    text = random.Random(1).randbytes(500)
    assert len(server_codec.compress(text)) == len(server_codec.compress(text)) > 400
    client_codec.compress(text)
    assert len(client_codec.compress(text)) < 30


class _Broken:
    def compress(self, data: bytes) -> bytes:
        raise MemoryError


@pytest.mark.parametrize("params", [NO_TAKEOVER, TAKEOVER])
def test_a_compressor_that_failed_midway_is_not_used_again(params: DeflateParams) -> None:
    ours, _ = codecs(params)
    broken: Any = _Broken()
    if params is NO_TAKEOVER:
        ours._pool.give(ours._settings, broken)
    else:
        ours._compressor = broken
    with pytest.raises(MemoryError):
        ours.compress(b"x")
    _, theirs = codecs(params)
    assert inflate(theirs, [ours.compress(b"fine")]) == b"fine"


def test_a_pool_keeps_a_few_compressors_only() -> None:
    pool = pool_of_library()
    settings = (1, 15, 8)
    taken = [pool.take(settings) for _ in range(10)]
    assert len(set(map(id, taken))) == 10
    for compressor in taken:
        pool.give(settings, compressor)
    assert len(pool._free[settings]) == deflate._KEEP_COMPRESSORS
    again = [pool.take(settings) for _ in range(10)]
    assert len(set(map(id, again))) == 10


def test_threads_that_compress_at_once_do_not_disturb_each_other() -> None:
    pool = pool_of_library()
    failed: list[object] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        codec = pool.codec(NO_TAKEOVER, STRICT, server=True)
        start.wait(10)
        for _ in range(100):
            message = rng.randbytes(rng.randrange(3000)) * 2
            try:
                assert zlib.decompressobj(-15).decompress(codec.compress(message) + b"\x00\x00\xff\xff") == message
            except Exception as error:  # goes to the thread that asserts
                failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed
    assert 1 <= sum(map(len, pool._free.values())) <= 4

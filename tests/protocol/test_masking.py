from __future__ import annotations

import random
from types import ModuleType

import pytest

from tests.support.twins import is_compiled, twins

KEY = b"\x01\x80\xff\x3c"


def reference(data: bytes, key: bytes, offset: int = 0) -> bytes:
    return bytes(byte ^ key[(i + offset) % 4] for i, byte in enumerate(data))


@pytest.fixture(
    params=twins("gows.protocol.masking"), ids=lambda module: "compiled" if is_compiled(module) else "plain"
)
def masking(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


SIZES = [*range(10), 124, 125, 126, 127, 1021, 1022, 1023, 1024, 1025, 1026, 1027, 4099, 65535, 65536, 65537, 200_003]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_equals_the_definition(masking: ModuleType, size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert masking.mask(data, KEY) == reference(data, KEY)


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 7, 125])
@pytest.mark.parametrize("size", [5, 1500])
def test_an_offset_goes_on_in_the_middle_of_the_key(masking: ModuleType, size: int, offset: int) -> None:
    data = random.Random(size).randbytes(size)
    assert masking.mask(data, KEY, offset) == reference(data, KEY, offset)


@pytest.mark.parametrize("size", [0, 1, 77, 5000])
def test_bytearrays_and_views_give_the_same_bytes(masking: ModuleType, size: int) -> None:
    data = random.Random(size).randbytes(size)
    expected = reference(data, KEY)
    for kind in (bytearray, memoryview):
        masked = masking.mask(kind(data), KEY)
        assert masked == expected
        assert type(masked) is bytes


def test_masking_twice_gives_the_original(masking: ModuleType) -> None:
    for size in (31, 3000):
        data = random.Random(size).randbytes(size)
        assert masking.mask(masking.mask(data, KEY), KEY) == data


@pytest.mark.parametrize("key", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01", b"\x80\x00\x00\x00"])
def test_extreme_keys(masking: ModuleType, key: bytes) -> None:
    for data in (b"", b"\x00" * 9, b"\xff" * 9, b"\x00" * 1100, b"\xff" * 1100):
        assert masking.mask(data, key) == reference(data, key)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (3, 3), (1, 8), (5, 1029), (5, 1028), (7, 66_000)])
def test_a_range_reads_nothing_beyond_it(masking: ModuleType, start: int, end: int) -> None:
    data = random.Random(end).randbytes(end)
    for rest in (b"", b"\xff" * 10):
        for buf in (data + rest, bytearray(data + rest)):
            assert masking.mask_range(buf, start, end, KEY) == reference(data[start:end], KEY)


def test_rotate(masking: ModuleType) -> None:
    assert [masking.rotate(b"abcd", n) for n in range(6)] == [b"abcd", b"bcda", b"cdab", b"dabc", b"abcd", b"bcda"]


def test_repeats_repeat() -> None:
    repeats = twins("gows.protocol.masking")[-1].REPEATS
    for count in (0, 1, 2, 256):
        assert (0xA1B2C3D4 * repeats[count]).to_bytes(4 * count, "big") == b"\xa1\xb2\xc3\xd4" * count

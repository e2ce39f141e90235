"""Header compression: the examples of RFC 7541, its limits, and agreement with the hpack library."""

from __future__ import annotations

import hpack as reference
import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from pointsman.extproc import huffman
from pointsman.extproc.frames import ConnectionFault, ErrorCode
from pointsman.extproc.heads import TOO_LARGE, HeadReader
from pointsman.extproc.hpack import STATIC_TABLE, Decoder, HeaderListTooLargeError, HpackError, encode

Pairs = list[tuple[bytes, bytes]]
REQUEST: Pairs = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
REQUEST_3: Pairs = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/index.html"),
    (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]
REQUESTS = [(REQUEST, 57), ([*REQUEST, (b"cache-control", b"no-cache")], 110), (REQUEST_3, 164)]


def response(status: bytes, second: bytes) -> Pairs:
    return [
        (b":status", status),
        (b"cache-control", b"private"),
        (b"date", b"Mon, 21 Oct 2013 20:13:" + second + b" GMT"),
        (b"location", b"https://www.example.com"),
    ]


COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
RESPONSE_3 = response(b"200", b"22")
RESPONSE_3 += [(b"content-encoding", b"gzip"), (b"set-cookie", COOKIE)]
RESPONSES = [(response(b"302", b"21"), 222), (response(b"307", b"21"), 222), (RESPONSE_3, 215)]

# RFC 7541, appendices C.3 to C.6
SESSIONS = {
    "C.3": (
        4096,
        REQUESTS,
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ),
    "C.4": (
        4096,
        REQUESTS,
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ),
    "C.5": (
        256,
        RESPONSES,
        (
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120"
            "474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d"
        ),
        "4803 3330 37c1 c0bf",
        (
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738"
            "666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33"
            "3630 303b 2076 6572 7369 6f6e 3d31"
        ),
    ),
    "C.6": (
        256,
        RESPONSES,
        (
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718"
            "63c7 8f0b 97c8 e9ae 82ae 43d3"
        ),
        "4883 640e ffc1 c0bf",
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7"
            "b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07"
        ),
    ),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_sessions_of_the_rfc(name: str) -> None:
    size, expected, *blocks = SESSIONS[name]
    assert isinstance(size, int)
    assert isinstance(expected, list)
    decoder = Decoder(size)
    for (headers, table_bytes), block in zip(expected, blocks, strict=True):
        assert isinstance(block, str)
        assert list(decoder.decode(bytes.fromhex(block))) == headers
        assert decoder.table_bytes == table_bytes


@pytest.mark.parametrize(
    ("block", "header", "indexed"),
    [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", (b"custom-key", b"custom-header"), True),
        ("040c 2f73 616d 706c 652f 7061 7468", (b":path", b"/sample/path"), False),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", (b"password", b"secret"), False),
        ("82", (b":method", b"GET"), False),
    ],
)
def test_fields_of_the_rfc(block: str, header: tuple[bytes, bytes], indexed: bool) -> None:
    decoder = Decoder()
    assert decoder.decode(bytes.fromhex(block)) == (header,)
    assert (len(decoder.entries), decoder.generation) == (int(indexed), int(indexed))


def test_tables_are_those_of_the_rfc() -> None:
    assert STATIC_TABLE == reference.table.HeaderTable.STATIC_TABLE
    assert huffman.codes() == list(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True))


@pytest.mark.parametrize(
    "block",
    [
        "80",  # index 0
        "be",  # beyond the empty dynamic table
        "ff80808080 8001",  # a number without end
        "ffffffff7f",  # a number that is too large
        "ff",  # a number cut off
        "40",  # no name
        "400a63",  # a name cut off
        "400161",  # no value
        "3fe21f",  # a table of 4097
        "8220",  # a size update behind a field
        "0082ffff0161",  # Huffman: padding of more than seven bits
        "0081fe0161",  # Huffman: padding that is not ones
        "0084fffffffc0161",  # Huffman: the end of the string in it
    ],
)
def test_blocks_that_break_the_rfc(block: str) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(bytes.fromhex(block))


def test_table_sizes() -> None:
    decoder = Decoder(100)
    assert list(decoder.decode(b"\x40\x01a\x01b\x40\x01c\x01d")) == [(b"a", b"b"), (b"c", b"d")]
    assert decoder.table_bytes == 68
    decoder.decode(b"\x40\x01e\x01f")  # a third one pushes the first out
    assert [name for name, _ in decoder.entries] == [b"e", b"c"]
    decoder.decode(b"\x3f\x15")  # 52
    assert [name for name, _ in decoder.entries] == [b"e"]
    decoder.decode(b"\x40\x01x\x14" + bytes(20))  # larger than the table: empties it
    assert (list(decoder.entries), decoder.table_bytes) == ([], 0)
    decoder.decode(b"\x20\x3f\x45")  # 0, then 100 again, in one block
    decoder.decode(b"\x40\x01x\x14" + bytes(20))
    assert decoder.table_bytes == 53


def test_a_list_too_large_leaves_the_table_right() -> None:
    decoder = Decoder(max_list_bytes=100)
    with pytest.raises(HeaderListTooLargeError):
        decoder.decode(b"\x40\x01a\x01b" * 3)
    assert len(decoder.entries) == 3
    assert decoder.decode(b"\xbe") == ((b"a", b"b"),)


names = st.binary(min_size=1, max_size=20)
lists = st.lists(st.tuples(names, st.binary(max_size=60) | st.sampled_from([b"x", b"y" * 200])), max_size=12)


@given(st.lists(st.tuples(lists, st.booleans(), st.sampled_from([None, 0, 50, 300, 4096])), max_size=8))
def test_agrees_with_the_hpack_library(blocks: list[tuple[Pairs, bool, int | None]]) -> None:
    encoder, decoder = reference.Encoder(), Decoder(max_list_bytes=1_000_000)
    for headers, coded, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        assert list(decoder.decode(encoder.encode(headers, huffman=coded))) == headers
        assert list(decoder.entries) == list(encoder.header_table.dynamic_entries)
        assert list(reference.Decoder().decode(encode(headers), raw=True)) == headers


@given(st.binary(max_size=60))
def test_anything_is_decoded_or_refused_like_the_library(block: bytes) -> None:
    theirs, ours = reference.Decoder(), Decoder()
    theirs.max_allowed_table_size = 4096
    try:
        expected = list(theirs.decode(block, raw=True))
    except (reference.HPACKError, MemoryError):
        with pytest.raises(HpackError):
            ours.decode(block)
    else:
        assert list(ours.decode(block)) == expected


@given(st.binary(max_size=200))
def test_huffman(data: bytes) -> None:
    coded = reference.huffman.HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(data)
    assert huffman.decode(coded) == data


def test_heads_are_remembered_as_long_as_the_table_stays() -> None:
    reader = HeadReader(1000)
    first = b"\x83\x86\x44\x02/x\x40\x0ccontent-type\x10application/grpc"
    reader.read(first)
    again = b"\x83\x86\xbf\xbe"[:2] + b"\x04\x02/x\xbe"
    head = reader.read(again)
    assert (head.path, head.http_status) == ("/x", 200)
    assert reader.read(again) is head
    reader.read(b"\x83\x86\x84\x40\x0ccontent-type\x09text/html")  # the same index means something else now
    assert reader.read(again).http_status == 415
    assert reader.read(b"\x00\x01a\x7f\xf0\x07" + bytes(1135)) is TOO_LARGE
    with pytest.raises(ConnectionFault) as caught:
        reader.read(b"\xff")
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR
    for number in range(300):
        reader.read(b"\x83\x86\x84\x04\x04/%03d" % number)
    assert len(reader._known) <= 256

"""The fast codec reads what the generated classes read, from whatever bytes, and refuses what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.api.request import RequestHead
from pointsman.extproc import codec, fastcodec, wire
from pointsman.extproc.protobytes import delimited, varint

MANY = settings(max_examples=400, deadline=None)

# Encodings, built from the wire up so that order, repeats and oddities are ours to choose


def padded_varint(number: int, more: int) -> bytes:
    """The same number in more bytes than it needs."""
    data = bytearray(varint(number))
    for _ in range(more):
        data[-1] |= 0x80
        data.append(0)
    return bytes(data)


def part(number: int, content: bytes) -> bytes:
    return delimited(number << 3 | 2, content)


def number(field: int, value: int) -> bytes:
    return bytes((field << 3,)) + varint(value)


def odd_field(draw: st.DrawFn) -> bytes:
    """A field that nobody declared, or a declared number with another wire type."""
    tag = draw(st.sampled_from([1, 2, 3, 8, 11, 12, 15, 16, 1000, (1 << 29) - 1])) << 3
    wire_type, content = draw(
        st.sampled_from([(0, b"\x05"), (0, b"\xff" * 9 + b"\x7f"), (1, b"8" * 8), (5, b"4" * 4), (2, b"\x03abc")])
    )
    return padded_varint(tag | wire_type, draw(st.sampled_from([0, 0, 0, 1]))) + content


texts = st.one_of(
    st.sampled_from([wire.SUBSET_NAMESPACE, wire.SUBSET_KEY, wire.DESTINATION_NAMESPACE, wire.SERVED_KEY, " a ", ""]),
    st.text(max_size=8),
).map(str.encode)
names = st.sampled_from([b":path", b"x-request-id", b"X-Request-Id", b"authorization", b"a", b"b", b""]) | texts
raws = st.sampled_from([b"", b"v", b"na\xefve", b"x" * 127, b"x" * 300]) | st.binary(max_size=140)


@st.composite
def mixed(draw: st.DrawFn, *fields: st.SearchStrategy[bytes], tidy: bool = False) -> bytes:
    """Fields in the given order, each once or not at all; or any number of them in any order with strange ones."""
    if tidy or draw(st.integers(0, 3)):
        return b"".join(draw(field) for field in fields if draw(st.integers(0, 3)))
    pieces = [draw(st.one_of(*fields)) for _ in range(draw(st.integers(0, 5)))]
    if draw(st.booleans()):
        pieces.insert(draw(st.integers(0, len(pieces))), odd_field(draw))
    return b"".join(pieces)


def inside(field: int, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return content.map(lambda found: part(field, found))


def several(field: int, content: st.SearchStrategy[bytes], most: int = 4) -> st.SearchStrategy[bytes]:
    return st.lists(inside(field, content), max_size=most).map(b"".join)


flags = st.sampled_from([0, 1, 1, 2, 1 << 40])
header = mixed(inside(1, names), inside(2, texts) | st.just(b""), inside(3, raws))
header_map = several(1, header)
headers = mixed(inside(1, header_map), flags.map(lambda value: number(3, value)))
body = mixed(inside(1, st.binary(max_size=200)), flags.map(lambda value: number(2, value)))
trailers = mixed(inside(1, header_map))

keys = st.sampled_from([wire.SUBSET_KEY.encode(), wire.SERVED_KEY.encode()]) | texts
namespaces = st.sampled_from([wire.SUBSET_NAMESPACE.encode(), wire.DESTINATION_NAMESPACE.encode()]) | texts
value: st.SearchStrategy[bytes] = st.deferred(
    lambda: (
        mixed(inside(3, texts), inside(6, several(1, value, 2)))
        | inside(3, texts)
        | inside(6, several(1, inside(3, texts), 3))
        | st.sampled_from([b"\x08\x00", b"\x11" + b"8" * 8, b"\x20\x01"])
        | inside(5, several(1, mixed(inside(1, texts), inside(2, value)), 1))
    )
)
subset_value = mixed(inside(1, keys), inside(2, value))
struct = several(1, subset_value, 2)
namespace = mixed(inside(1, namespaces), inside(2, struct))
metadata = several(1, namespace, 2)
mode_numbers = st.integers(0, 6)
modes = mixed(
    mode_numbers.map(lambda mode: number(1, mode)), mode_numbers.map(lambda mode: number(2, mode)), st.just(b"\x18\x01")
)
phase = st.one_of(
    inside(2, headers), inside(3, headers), inside(4, body), inside(5, body), inside(6, trailers), inside(7, trailers)
)
message = mixed(phase, inside(8, metadata), inside(9, namespace), st.just(b"\x50\x01"), inside(11, modes))


def outcome(decode: Callable[[bytes], wire.Event], data: bytes) -> wire.Event | str:
    try:
        return decode(data)
    except wire.WireError:
        return "refused"


def agree(data: bytes) -> None:
    # twice and once more: the caches must not change the answer
    for _ in range(3):
        assert outcome(fastcodec.decode_request, data) == outcome(codec.decode_request, data)


@MANY
@given(message)
def test_any_encoding_reads_alike(data: bytes) -> None:
    agree(data)


@MANY
@given(phase, st.lists(phase | inside(8, metadata) | inside(11, modes), min_size=1, max_size=3))
def test_pieces_of_a_message_are_merged_or_replaced(first: bytes, others: list[bytes]) -> None:
    agree(b"".join([first, *others]))


@MANY
@given(message, st.data())
def test_mutated_bytes(data: bytes, choice: st.DataObject) -> None:
    mutant = bytearray(data)
    for _ in range(choice.draw(st.integers(1, 3))):
        at = choice.draw(st.integers(0, len(mutant)))
        match choice.draw(st.sampled_from(["set", "cut", "add"])):
            case "set":
                mutant[at : at + 1] = choice.draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del mutant[at : at + choice.draw(st.integers(1, 4))]
            case _:
                mutant[at:at] = choice.draw(st.binary(max_size=4))
    agree_but_for_groups(bytes(mutant))


def agree_but_for_groups(data: bytes) -> None:
    """We refuse all groups, the generated classes only broken ones; a mutation may make a group of what was none."""
    mine, theirs = outcome(fastcodec.decode_request, data), outcome(codec.decode_request, data)
    if mine != theirs:
        assert mine == "refused"
        with pytest.raises(wire.WireError, match=r"wire type [34]"):
            fastcodec.decode_request(data)


def test_mutants_of_real_messages() -> None:
    rng = Random(5)
    for data in real_messages():
        agree(data)
        for _ in range(1500):
            mutant = bytearray(data)
            for _ in range(rng.randrange(1, 4)):
                mutant[rng.randrange(len(mutant))] = rng.choice((0, 1, 2, 10, 18, 26, 127, 128, rng.randrange(256)))
            del mutant[rng.choice((len(mutant), rng.randrange(len(mutant)))) :]
            agree_but_for_groups(bytes(mutant))


def real_messages() -> list[bytes]:
    head = RequestHead(
        {":path": "/v1/chat/completions", "user-agent": "x" * 200, "x-request-id": "4b5f", "content-length": "24000"},
        ("10.0.0.1:8000", "10.0.0.2:8000"),
    )
    events: list[wire.Event] = [
        wire.RequestHeaders(head, True, wire.BodyMode.BUFFERED, wire.BodyMode.NONE),
        wire.RequestBody(b"y" * 150, end_of_stream=True),
        wire.ResponseHeaders({":status": "200", "content-type": "text/event-stream"}, served="10.0.0.1:8000"),
        wire.ResponseBody(b"data: {}\n\n", end_of_stream=False),
    ]
    return [codec.encode_request(event) for event in events]


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x22", b"\xff\xff\xff", b"\x22\x00\x00\x00", b"\x50\x01", b"\x22\x00\x66\x00", b"\x22\x00\x67\x00"),
        *(b"\x22\x00\x63\x08", b"\x22\x00\x64", b"\x22\x80\x80\x80\x80\x80\x00", b"\x22\x80\x80\x80\x80\x10"),
        *(b"\x22\x00\xa0\x80\x80\x80\x10\x00", b"\x22\x00\xf8\xff\xff\xff\x7f\x00", b"\x22\xff\xff\xff\xff\x07"),
        *(b"\x22\x0c\x10" + b"\x80" * 10 + b"\x01", b"\x12\x07\x0a\x05\x0a\x03\x0a\x01\xff"),
        *(b"\x12\x07\x0a\x05\x0a\x03\x12\x01\xff", b"\x12\x00\x5a\x02\x08\x63", b"\x12\x00\x5a\x02\x10\x07"),
        *(b"\x22\x05\x0a\x7fabc", b"\x22\x02\x0a\x01a", b"\x12\x03\x0a\x01\x0a", b"\x22\x00\x4a\x02\x0a\x05"),
    ],
)
def test_both_refuse(data: bytes) -> None:
    for decode in (codec.decode_request, fastcodec.decode_request):
        with pytest.raises(wire.WireError):
            decode(data)


@pytest.mark.parametrize(
    "data",
    [
        *(b"\xa2\x80\x80\x80\x00\x00", b"\x22\x80\x80\x80\x80\x00", b"\x22\x0b\x10" + b"\x80" * 9 + b"\x02"),
        *(
            b"\x22\x03\x0a\x01a\x22\x02\x10\x01",
            b"\x22\x03\x0a\x01a\x32\x00\x22\x02\x10\x01",
            b"\x22\x03\x0a\x01a\x30\x00",
        ),
        *(b"\x12\x00\x5a\x06\x08\x82\x80\x80\x80\x10", b"\x12\x07\x0a\x05\x0a\x03\x1a\x01\xff", b"\x12\x02\x18\x01"),
        *(
            b"\x12\x02\x0a\x00",
            b"\x12\x04\x0a\x00\x18\x02",
            b"\x22\x00\x42\x00",
            b"\x32\x00",
            b"\x3a\x04\x0a\x02\x0a\x00",
        ),
    ],
)
def test_both_read(data: bytes) -> None:
    assert outcome(codec.decode_request, data) != "refused"
    agree(data)


def hint(entry: bytes) -> bytes:
    """Empty headers, and an entry of the filter metadata beside them."""
    return b"\x12\x00" + part(8, part(1, entry))


def hint_value(content: bytes) -> bytes:
    return part(2, part(1, part(1, wire.SUBSET_KEY.encode()) + part(2, content)))


def nested(levels: int, tags: tuple[int, ...], first: tuple[int, ...]) -> bytes:
    content = part(3, b"x")
    for tag in (*first, *tags * levels):
        content = part(tag, content)
    return hint(part(1, wire.SUBSET_NAMESPACE.encode()) + hint_value(content))


@pytest.mark.parametrize("first", [(), (1, 6), (2, 1, 5)])
@pytest.mark.parametrize("tags", [(1, 6), (2, 1, 5)])
def test_nesting_ends_at_the_same_depth(tags: tuple[int, ...], first: tuple[int, ...]) -> None:
    """Lists of lists and structs in structs: two and three levels each, so that every depth around 100 occurs."""
    messages = [nested(levels, tags, first) for levels in range(25, 60)]
    assert {outcome(fastcodec.decode_request, data) == "refused" for data in messages} == {True, False}
    for data in messages:
        agree(data)


@pytest.mark.parametrize("odd", [b"", b"\x18\x01", b"\x10\x01", b"\x08\x01", b"\x1a\x00"])
@pytest.mark.parametrize("again", [b"", hint_value(b"\x1a\x03b:1"), hint_value(b"")])
def test_entries_of_the_metadata(odd: bytes, again: bytes) -> None:
    """A map entry that holds a field nobody knows is left out: a habit of the reference, and so one of ours."""
    data = hint(part(1, wire.SUBSET_NAMESPACE.encode()) + hint_value(b"\x1a\x03a:1") + odd + again)
    event = fastcodec.decode_request(data)
    assert isinstance(event, wire.RequestHeaders)
    assert (event.head.subset is None) == bool(odd)
    agree(data)


@pytest.mark.parametrize("data", [b"\x22\x00\x63\x64", b"\x63\x08\x01\x64\x22\x00"])
def test_groups_are_refused(data: bytes) -> None:
    assert outcome(codec.decode_request, data) != "refused"  # the one difference
    with pytest.raises(wire.WireError, match="wire type 3"):
        fastcodec.decode_request(data)

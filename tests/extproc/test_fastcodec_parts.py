"""Replies of the fast codec, its field numbers against the descriptors, its bounds, and that it is linear."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.struct_pb2 import DESCRIPTOR as STRUCT_FILE
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.extproc import codec, fastcodec, fastencode, fastheaders, fastschema, wire
from pointsman.extproc import ext_proc_pb2 as pb
from pointsman.extproc.protobytes import Message, delimited, varint

values = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(["", "v" * 60, "ü" * 9000])
names = st.from_regex(r":?[a-z][a-z0-9-]{0,20}", fullmatch=True) | st.sampled_from(["", "n" * 70, "n" * 200])
removed = st.lists(names, max_size=2).map(tuple)
pairs = st.lists(st.tuples(names, values), max_size=4).map(tuple)
destinations = st.sampled_from(["", "10.0.0.1:8000", "10.0.0.1:8000,10.0.0.2:8000", "d" * 130, "d" * 600]) | values
bodies = st.sampled_from([0, 1, 99, 127, 128, 16_000, 16_383, 16_384, 62_000, 3_000_000]).map(bytes)
bodies |= st.binary(max_size=300)
phases: list[wire.Phase] = list(get_args(wire.Phase))
actions: st.SearchStrategy[wire.Action] = st.one_of(
    st.builds(wire.Continue, st.sampled_from(phases), st.none() | st.sampled_from(wire.BodyMode), pairs, removed),
    st.builds(wire.Replace, bodies),
    st.builds(
        wire.Route,
        st.sampled_from(["request_headers", "request_body", "request_trailers"]),
        destinations,
        pairs,
        st.none() | bodies,
        removed,
    ),
    st.builds(wire.Chunk, bodies, st.booleans(), st.booleans()),
    st.builds(wire.Immediate, st.integers(0, 100_000), pairs, bodies, values),
)


@settings(max_examples=500, deadline=None)
@given(actions)
def test_replies_mean_the_same(action: wire.Action) -> None:
    reference = codec.encode_response(action)
    for _ in range(2):
        own = fastcodec.encode_response(action)
        assert pb.ProcessingResponse.FromString(own) == pb.ProcessingResponse.FromString(reference)
        # as short as can be, too: nothing but explicit zeros may be added
        assert len(own) <= len(reference) + 16


def test_every_length_around_the_borders() -> None:
    for size in [*range(300), *range(16_300, 16_420)]:
        actions: list[wire.Action] = [
            wire.Route("request_body", "1.2.3.4:5", (("name", "v" * size),)),
            wire.Route("request_body", "1.2.3.4:5", (), b"b" * size),
            wire.Chunk(b"b" * size, end_of_stream=size % 2 == 0),
        ]
        for action in actions:
            own = pb.ProcessingResponse.FromString(fastcodec.encode_response(action))
            assert own == pb.ProcessingResponse.FromString(codec.encode_response(action))


# Field numbers

DECLARED = [found for found in vars(fastschema).values() if isinstance(found, Message)]
KINDS = {
    FieldDescriptor.TYPE_BOOL: "varint",
    FieldDescriptor.TYPE_ENUM: "varint",
    FieldDescriptor.TYPE_INT32: "varint",
    FieldDescriptor.TYPE_DOUBLE: "fixed64",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_MESSAGE: "message",
}


def descriptor_of(message: Message) -> Descriptor:
    scope, _, name = message.name.rpartition(".")
    file = STRUCT_FILE if scope == "google.protobuf" else pb.DESCRIPTOR
    assert scope == file.package
    found: Descriptor = file.message_types_by_name[name]
    return found


def described_kind(field: Any) -> str:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if field.message_type.GetOptions().map_entry:
            return "map"
        return "repeated" if field.is_repeated else "message"
    return KINDS[field.type]


@pytest.mark.parametrize("message", DECLARED, ids=lambda message: message.name)
def test_declarations_match_the_descriptors(message: Message) -> None:
    descriptor = descriptor_of(message)
    for tag, field in message.fields.items():
        real = descriptor.fields_by_name[field.name]
        assert (tag >> 3, field.number) == (real.number, real.number)
        assert tag & 7 == {"varint": 0, "fixed64": 1}.get(field.kind, 2)
        assert tag < 128
        assert field.kind == described_kind(real)
        assert field.in_oneof == (real.containing_oneof is not None)
        if field.message is not None:
            inner: Any = real.message_type
            if field.kind == "map":
                inner = inner.fields_by_name["value"].message_type
                assert [tag >> 3 for tag in field.message.fields] == [1, 2]
            declared = field.message.fields[0x12].message if field.kind == "map" else field.message
            assert declared is not None
            assert declared.name == inner.full_name


def reachable(message: Message, seen: dict[str, Message]) -> dict[str, Message]:
    if message.name not in seen:
        if message.name:
            seen[message.name] = message
        for field in message.fields.values():
            if field.message is not None:
                reachable(field.message, seen)
    return seen


def test_all_that_a_proxy_sends_is_declared() -> None:
    """A field left out would be skipped unchecked where the generated classes look into it."""
    for message in reachable(fastschema.REQUEST, {}).values():
        assert {field.name for field in message.fields.values()} == set(descriptor_of(message).fields_by_name)


def test_every_constant_is_a_declared_tag() -> None:
    tags = {tag for message in DECLARED for tag in message.fields}
    constants = {name: found for name, found in vars(fastschema).items() if isinstance(found, int)}
    assert constants.pop("OVERWRITE_IF_EXISTS_OR_ADD") == pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert constants.pop("SEND") == pb.ProcessingMode.SEND
    assert set(constants.values()) <= tags
    assert set(fastschema.REPLIES) == set(phases)
    for phase, tag in fastschema.REPLIES.items():
        assert fastschema.RESPONSE.fields[tag].name == phase


# Work and memory


class Counted(bytes):
    """Counts what is copied out of it."""

    def __init__(self, _data: bytes) -> None:
        self.copied = self.slices = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, slice):
            self.slices += 1
            self.copied += len(found)
        return found


BODY = bytes(16 << 20)


@pytest.mark.parametrize("before", [b"", b"\x5a\x02\x08\x02", b"\x12\x00"])
@pytest.mark.parametrize("after", [b"", b"\x5a\x02\x08\x02", b"\xf8\x01\x05"])
@pytest.mark.parametrize("inside", [b"", b"\x10\x01", b"\xf8\x01\x05"])
def test_a_large_body_is_one_copy(before: bytes, after: bytes, inside: bytes) -> None:
    data = Counted(before + delimited(0x22, delimited(0x0A, BODY) + inside) + after)
    event = fastcodec.decode_request(data)
    assert isinstance(event, wire.RequestBody)
    assert len(event.data) == len(BODY)
    assert data.copied < len(BODY) + 100
    assert data.slices <= 2


@pytest.mark.parametrize("tail", [b"", b"\x18\x02"])  # the usual way, the other way
def test_headers_are_linear(tail: bytes) -> None:
    counts = []
    for many in (200, 400, 800):
        entries = b"".join(
            delimited(0x0A, delimited(0x0A, b"x-%d" % (index % 7)) + delimited(0x1A, b"v%06d" % index))
            for index in range(many)
        )
        data = Counted(delimited(0x12, delimited(0x0A, entries) + tail))
        fastcodec.decode_request(data)
        counts.append((data.slices, data.copied))
    small, middle, large = counts
    for index in (0, 1):
        assert large[index] - middle[index] <= 2.1 * (middle[index] - small[index])


def test_caches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = fastheaders.HeaderReader()
    monkeypatch.setattr(fastcodec, "_HEADERS", reader)
    for index in range(6000):
        headers = {f"x-{index}": "v", "x-long": "w" * (index % 9000), "authorization": f"Bearer {index}"}
        data = codec.encode_request(wire.ResponseHeaders(headers))
        rest = delimited(0x42, b"") + delimited(0x5A, b"\x18" + varint(index))
        for _ in range(2):
            assert fastcodec.decode_request(data + rest) == wire.ResponseHeaders(headers)
        fastcodec.encode_response(wire.Route("request_body", f"pod-{index}"))
    assert len(reader._young) <= 2048
    assert len(reader._old) <= 2048
    assert len(reader._shapes) <= 512
    assert len(fastcodec._CONTEXTS) <= 1024
    assert len(fastencode._PICKS) <= 4096
    kept = [name for name, _ in [*reader._young.values(), *reader._old.values()]]
    assert "authorization" not in kept
    assert max(len(entry) for entry in reader._young) <= 256


def test_headers_in_use_stay_cached() -> None:
    reader = fastheaders.HeaderReader()
    entry = delimited(0x0A, b"\x0a\x01a\x1a\x01b")
    first = reader.read(entry, 0, len(entry))
    assert first is not None
    for index in range(5000):
        other = delimited(0x0A, b"\x0a\x01c" + delimited(0x1A, b"%d" % index))
        reader.read(other, 0, len(other))
        again = reader.read(entry, 0, len(entry))
        assert again is not None
        assert again[0] is first[0]


def test_equal_lengths_of_another_shape() -> None:
    one = {"aa": "bbbb", "cccc": "d"}
    other = {"aaa": "bbb", "ccc": "dd"}
    for headers in (one, one, one, other, one, other, other, other, one):
        event = wire.ResponseHeaders(headers)
        assert fastcodec.decode_request(codec.encode_request(event)) == event


@pytest.mark.parametrize("length", [2, 127, 128, 129, 131, 133, 300])
@pytest.mark.parametrize("announced", [b"\x85\x01", b"\x85", b"\x80\x01", b"\x7f", b"\xac\x02"])
def test_fleeting_headers_of_any_length(length: int, announced: bytes) -> None:
    """The length of a value that is not cached is read by a shortcut for lengths below 128."""
    header = b"\x0a\x0dauthorization\x1a" + announced + b"s" * length
    data = delimited(0x12, delimited(0x0A, delimited(0x0A, header)))
    results: list[wire.Event | None] = []
    for decode in (fastcodec.decode_request, codec.decode_request):
        try:
            results.append(decode(data))
        except wire.WireError:
            results.append(None)
    assert results[0] == results[1]

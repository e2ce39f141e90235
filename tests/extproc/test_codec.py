"""Bytes and structs: round trips, other proxies' habits, garbage."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.api.request import RequestHead
from pointsman.extproc import ext_proc_pb2 as pb
from pointsman.extproc import wire
from pointsman.extproc.codec import decode_request, decode_response, encode_request, encode_response

names = st.from_regex(r":?[a-z][a-z0-9-]{0,20}", fullmatch=True)
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=40)
headers = st.dictionaries(names, values, max_size=6)
hostports = st.from_regex(r"10\.0\.[0-9]{1,2}\.[0-9]{1,2}(:[0-9]{2,5})?", fullmatch=True)
subsets = st.none() | st.lists(hostports, max_size=4).map(tuple)
modes = st.none() | st.sampled_from(wire.BodyMode)


@st.composite
def request_headers(draw: st.DrawFn) -> wire.RequestHeaders:
    head = RequestHead(draw(headers), draw(subsets))
    modes_told = draw(st.booleans())
    pair = [draw(st.sampled_from(wire.BodyMode)) if modes_told else None for _ in range(2)]
    return wire.RequestHeaders(head, draw(st.booleans()), *pair)


events = st.one_of(
    request_headers(),
    st.builds(wire.RequestBody, st.binary(max_size=300), st.booleans()),
    st.just(wire.RequestTrailers()),
    st.builds(wire.ResponseHeaders, headers, st.booleans(), st.just("") | hostports),
    st.builds(wire.ResponseBody, st.binary(max_size=300), st.booleans()),
    st.just(wire.ResponseTrailers()),
)

pairs = st.dictionaries(names, values, max_size=4).map(lambda found: tuple(found.items()))
removed = st.lists(names, max_size=3).map(tuple)
destinations = st.lists(hostports, min_size=1, max_size=3).map(",".join)
phases = [
    "request_headers",
    "request_body",
    "request_trailers",
    "response_headers",
    "response_body",
    "response_trailers",
]
actions = st.one_of(
    st.builds(wire.Continue, st.sampled_from(phases)),
    st.builds(wire.Continue, st.just("response_headers"), st.none() | st.sampled_from(wire.BodyMode), pairs, removed),
    st.builds(wire.Route, st.just("request_headers"), destinations, pairs, st.none(), removed),
    st.builds(wire.Route, st.just("request_body"), destinations, pairs, st.none() | st.binary(max_size=300), removed),
    st.builds(wire.Replace, st.binary(max_size=300)),
    st.builds(wire.Route, st.just("request_trailers"), destinations),
    st.builds(wire.Chunk, st.binary(max_size=300), st.booleans(), st.booleans()),
    st.builds(wire.Immediate, st.integers(200, 599), pairs, st.binary(max_size=300), st.text("abc_", max_size=9)),
)


@given(events)
def test_events_survive(event: wire.Event) -> None:
    assert decode_request(encode_request(event)) == event


@given(actions)
def test_actions_survive(action: wire.Action) -> None:
    assert decode_response(encode_response(action)) == action


@given(st.binary(max_size=200))
def test_garbage_is_a_wire_error_or_a_message(data: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        decode_request(data)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x12\x7f", b"", b"\x50\x01"])
def test_malformed(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        decode_request(data)
    with pytest.raises(wire.WireError):
        decode_response(data)


def test_truncated_message() -> None:
    data = encode_request(wire.RequestBody(b"x" * 100, end_of_stream=True))
    with pytest.raises(wire.WireError, match="no ProcessingRequest"):
        decode_request(data[:-3])


def test_unknown_body_mode() -> None:
    message = pb.ProcessingRequest()
    message.request_headers.SetInParent()
    data = message.SerializeToString() + b"\x5a\x02\x08\x63"
    with pytest.raises(wire.WireError, match="body mode 99"):
        decode_request(data)


def head_of(message: pb.ProcessingRequest) -> RequestHead:
    event = decode_request(message.SerializeToString())
    assert isinstance(event, wire.RequestHeaders)
    return event.head


def test_header_habits_of_other_proxies() -> None:
    message = pb.ProcessingRequest()
    add = message.request_headers.headers.headers.add
    add(key="X-Upper", value="v")
    add(key="both", value="old", raw_value=b"new")
    add(key="twice", raw_value=b"1")
    add(key="Twice", value="2")
    add(key="latin", raw_value=b"na\xefve")
    assert head_of(message).headers == {"x-upper": "v", "both": "new", "twice": "1,2", "latin": "na\ufffdve"}


def subset_message(value: list[str] | str | float) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    message.request_headers.SetInParent()
    message.metadata_context.filter_metadata[wire.SUBSET_NAMESPACE].update({wire.SUBSET_KEY: value})
    return message


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["10.0.0.1:8000", " 10.0.0.2 "], ("10.0.0.1:8000", "10.0.0.2")),
        ("10.0.0.1:8000, 10.0.0.2:8000,", ("10.0.0.1:8000", "10.0.0.2:8000")),
        ([], ()),
        ("", ()),
        (7, ()),
    ],
)
def test_subset_hint(value: list[str] | str | float, expected: tuple[str, ...]) -> None:
    assert head_of(subset_message(value)).subset == expected


def test_no_subset_hint() -> None:
    message = pb.ProcessingRequest()
    message.request_headers.SetInParent()
    assert head_of(message).subset is None
    message.metadata_context.filter_metadata["envoy.lb"].update({"other": "x"})
    message.metadata_context.filter_metadata[wire.SUBSET_NAMESPACE].update({"other": "x"})
    assert head_of(message).subset is None


def test_pick_is_header_and_metadata_alike() -> None:
    data = encode_response(wire.Route("request_body", "10.0.0.1:80", (("x", "y"),)))
    message = pb.ProcessingResponse.FromString(data)
    common = message.request_body.response
    [first, _] = common.header_mutation.set_headers
    assert (first.header.key, first.header.raw_value) == (wire.DESTINATION, b"10.0.0.1:80")
    assert first.append_action == pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    assert common.clear_route_cache
    namespace = message.dynamic_metadata.fields[wire.DESTINATION_NAMESPACE].struct_value
    assert namespace.fields[wire.DESTINATION].string_value == "10.0.0.1:80"


def test_without_a_pick_the_clients_header_goes() -> None:
    message = pb.ProcessingResponse.FromString(encode_response(wire.Route("request_headers", "")))
    assert list(message.request_headers.response.header_mutation.remove_headers) == [wire.DESTINATION]
    assert not message.HasField("dynamic_metadata")


def test_who_served() -> None:
    message = pb.ProcessingRequest()
    message.response_headers.headers.headers.add(key=":status", raw_value=b"200")

    def served() -> str:
        event = decode_request(message.SerializeToString())
        assert isinstance(event, wire.ResponseHeaders)
        return event.served

    assert served() == ""
    metadata = message.metadata_context.filter_metadata[wire.DESTINATION_NAMESPACE]
    metadata.update({wire.DESTINATION: "10.0.0.1:8000"})
    assert served() == ""
    metadata.update({wire.SERVED_KEY: " 10.0.0.2:8000"})
    assert served() == "10.0.0.2:8000"
    metadata.update({wire.SERVED_KEY: 5})
    assert served() == ""

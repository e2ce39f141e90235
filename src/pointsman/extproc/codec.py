"""Protocol bytes to events and actions to protocol bytes, and the proxy's side of both for tests and probes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct

from pointsman.api.request import RequestHead
from pointsman.extproc import ext_proc_pb2 as pb
from pointsman.extproc import wire

_M = TypeVar("_M", bound=Message)
_OVERWRITE = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def decode_request(data: bytes) -> wire.Event:
    """Read a ProcessingRequest.

    Raises:
        WireError: when the bytes are no such message, or one of a kind we do not know.
    """
    message = _parse(pb.ProcessingRequest(), data)
    match message.WhichOneof("request"):
        case "request_headers":
            return _request_headers(message)
        case "request_body":
            return wire.RequestBody(message.request_body.body, message.request_body.end_of_stream)
        case "request_trailers":
            return wire.RequestTrailers()
        case "response_headers":
            part = message.response_headers
            return wire.ResponseHeaders(_header_dict(part.headers.headers), part.end_of_stream, _served(message))
        case "response_body":
            return wire.ResponseBody(message.response_body.body, message.response_body.end_of_stream)
        case "response_trailers":
            return wire.ResponseTrailers()
    raise wire.WireError("the message holds neither headers nor body nor trailers")


def encode_response(action: wire.Action) -> bytes:
    """Write the ProcessingResponse for an action."""
    match action:
        case wire.Continue():
            return _continue(action)
        case wire.Route():
            message = _route(action)
        case wire.Replace():
            message = pb.ProcessingResponse()
            message.response_body.response.body_mutation.body = action.data
        case wire.Chunk():
            message = pb.ProcessingResponse()
            part = message.response_body if action.response else message.request_body
            streamed = part.response.body_mutation.streamed_response
            streamed.body = action.data
            streamed.end_of_stream = action.end_of_stream
        case wire.Immediate():
            message = pb.ProcessingResponse()
            answer = message.immediate_response
            answer.status.code = action.status
            answer.body = action.body
            answer.details = action.details
            _set_headers(answer.headers, action.headers)
    data: bytes = message.SerializeToString()
    return data


def _parse(message: _M, data: bytes) -> _M:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise wire.WireError(f"{len(data)} bytes that are no {message.DESCRIPTOR.name}: {error}") from None
    return message


def _request_headers(message: pb.ProcessingRequest) -> wire.RequestHeaders:
    part = message.request_headers
    subset = _subset(message.metadata_context.filter_metadata) if message.HasField("metadata_context") else None
    head = RequestHead(_header_dict(part.headers.headers), subset)
    if not message.HasField("protocol_config"):
        return wire.RequestHeaders(head, part.end_of_stream)
    config = message.protocol_config
    return wire.RequestHeaders(
        head, part.end_of_stream, _body_mode(config.request_body_mode), _body_mode(config.response_body_mode)
    )


def _body_mode(number: int) -> wire.BodyMode:
    try:
        return wire.BodyMode(number)
    except ValueError:
        raise wire.WireError(f"unknown body mode {number}") from None


def _header_dict(headers: Iterable[pb.HeaderValue]) -> dict[str, str]:
    result: dict[str, str] = {}
    for header in headers:
        name = header.key.lower()
        # Envoy fills raw_value, other proxies value; bytes that are no text must not fail the request
        raw = header.raw_value
        value = raw.decode("utf-8", "replace") if raw else header.value
        result[name] = f"{result[name]},{value}" if name in result else value
    return result


def _subset(filter_metadata: Mapping[str, Struct]) -> tuple[str, ...] | None:
    if wire.SUBSET_NAMESPACE not in filter_metadata:
        return None
    fields = filter_metadata[wire.SUBSET_NAMESPACE].fields
    if wire.SUBSET_KEY not in fields:
        return None
    value = fields[wire.SUBSET_KEY]
    match value.WhichOneof("kind"):
        case "list_value":
            entries = [item.string_value for item in value.list_value.values]
        case "string_value":
            entries = value.string_value.split(",")
        case _:
            entries = []
    return tuple(entry for entry in map(str.strip, entries) if entry)


def _served(message: pb.ProcessingRequest) -> str:
    filter_metadata = message.metadata_context.filter_metadata
    # looking a missing key up in a map of messages would add it
    if wire.DESTINATION_NAMESPACE not in filter_metadata:
        return ""
    fields = filter_metadata[wire.DESTINATION_NAMESPACE].fields
    return fields[wire.SERVED_KEY].string_value.strip() if wire.SERVED_KEY in fields else ""


@lru_cache(maxsize=64)
def _continue(action: wire.Continue) -> bytes:
    message = pb.ProcessingResponse()
    getattr(message, action.phase).SetInParent()
    if action.response_body_mode is not None:
        message.mode_override.response_header_mode = pb.ProcessingMode.SEND
        message.mode_override.response_body_mode = _enum(action.response_body_mode)
    if action.phase == "response_headers" and (action.set_headers or action.remove_headers):
        mutation = message.response_headers.response.header_mutation
        _set_headers(mutation, action.set_headers)
        mutation.remove_headers.extend(action.remove_headers)
    data: bytes = message.SerializeToString()
    return data


def _enum(mode: wire.BodyMode) -> Any:
    # the stub has a type of its own for enum numbers, which at run time are ints
    return int(mode)


def _route(action: wire.Route) -> pb.ProcessingResponse:
    message = pb.ProcessingResponse()
    if action.destination:
        namespace = message.dynamic_metadata.fields[wire.DESTINATION_NAMESPACE].struct_value
        namespace.fields[wire.DESTINATION].string_value = action.destination
    if action.phase == "request_trailers":
        # headers are past changing; the metadata alone steers
        message.request_trailers.SetInParent()
        return message
    common = getattr(message, action.phase).response
    common.clear_route_cache = True
    if action.destination:
        _set_headers(common.header_mutation, ((wire.DESTINATION, action.destination),))
    else:
        common.header_mutation.remove_headers.append(wire.DESTINATION)
    _set_headers(common.header_mutation, action.set_headers)
    common.header_mutation.remove_headers.extend(action.remove_headers)
    if action.body is not None:
        common.body_mutation.body = action.body
    return message


def _set_headers(mutation: pb.HeaderMutation, headers: Iterable[tuple[str, str]]) -> None:
    for name, value in headers:
        option = mutation.set_headers.add()
        option.append_action = _OVERWRITE
        option.header.key = name
        option.header.raw_value = value.encode()


# The proxy's side


def encode_request(event: wire.Event) -> bytes:
    """Write the ProcessingRequest that a proxy would send for an event."""
    message = pb.ProcessingRequest()
    match event:
        case wire.RequestHeaders():
            _fill_headers(message.request_headers, event.head.headers, event.end_of_stream)
            _fill_subset(message, event.head.subset)
            if event.request_body_mode is not None:
                message.protocol_config.request_body_mode = _enum(event.request_body_mode)
            if event.response_body_mode is not None:
                message.protocol_config.response_body_mode = _enum(event.response_body_mode)
        case wire.ResponseHeaders():
            _fill_headers(message.response_headers, event.headers, event.end_of_stream)
            if event.served:
                fields = message.metadata_context.filter_metadata[wire.DESTINATION_NAMESPACE].fields
                fields[wire.SERVED_KEY].string_value = event.served
        case wire.RequestBody():
            message.request_body.body = event.data
            message.request_body.end_of_stream = event.end_of_stream
        case wire.ResponseBody():
            message.response_body.body = event.data
            message.response_body.end_of_stream = event.end_of_stream
        case wire.RequestTrailers():
            message.request_trailers.SetInParent()
        case wire.ResponseTrailers():
            message.response_trailers.SetInParent()
    data: bytes = message.SerializeToString()
    return data


def decode_response(data: bytes) -> wire.Action:
    """Read a ProcessingResponse as a proxy would.

    Raises:
        WireError: when the bytes are no such message, or an empty one.
    """
    message = _parse(pb.ProcessingResponse(), data)
    kind = message.WhichOneof("response")
    if kind is None:
        raise wire.WireError("the message answers nothing")
    if kind == "immediate_response":
        answer = message.immediate_response
        return wire.Immediate(answer.status.code, _pairs(answer.headers), answer.body, answer.details)
    part = getattr(message, kind)
    destination = _destination(message)
    if kind.endswith("_trailers"):
        return wire.Route(kind, destination) if destination else wire.Continue(kind)
    mutation = part.response.body_mutation
    if mutation.WhichOneof("mutation") == "streamed_response":
        streamed = mutation.streamed_response
        return wire.Chunk(streamed.body, streamed.end_of_stream, kind == "response_body")
    if kind == "response_body" and mutation.WhichOneof("mutation") == "body":
        return wire.Replace(mutation.body)
    override = message.mode_override.response_body_mode if message.HasField("mode_override") else None
    if kind != "response_headers" and part.response.HasField("header_mutation"):
        headers = tuple(pair for pair in _pairs(part.response.header_mutation) if pair[0] != wire.DESTINATION)
        removed = tuple(n for n in part.response.header_mutation.remove_headers if n != wire.DESTINATION)
        body = mutation.body if mutation.WhichOneof("mutation") == "body" else None
        return wire.Route(kind, destination, headers, body, removed)
    headers, removed = _pairs(part.response.header_mutation), tuple(part.response.header_mutation.remove_headers)
    return wire.Continue(kind, None if override is None else wire.BodyMode(override), headers, removed)


def _fill_headers(part: pb.HttpHeaders, headers: Mapping[str, str], end_of_stream: bool) -> None:
    part.end_of_stream = end_of_stream
    part.headers.SetInParent()
    for name, value in headers.items():
        part.headers.headers.add(key=name, raw_value=value.encode())


def _fill_subset(message: pb.ProcessingRequest, subset: tuple[str, ...] | None) -> None:
    if subset is not None:
        fields = message.metadata_context.filter_metadata[wire.SUBSET_NAMESPACE].fields
        fields[wire.SUBSET_KEY].list_value.extend(list(subset))


def _destination(message: pb.ProcessingResponse) -> str:
    namespace = message.dynamic_metadata.fields
    if wire.DESTINATION_NAMESPACE not in namespace:
        return ""
    value: str = namespace[wire.DESTINATION_NAMESPACE].struct_value.fields[wire.DESTINATION].string_value
    return value


def _pairs(mutation: pb.HeaderMutation) -> tuple[tuple[str, str], ...]:
    return tuple((option.header.key, option.header.raw_value.decode()) for option in mutation.set_headers)

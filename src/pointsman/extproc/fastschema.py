"""The messages of ``ext_proc.proto`` that the fast codec reads and writes, each field once.

The constants are the fields' tags (number and wire type, one byte each). A test compares every declaration here with
the generated descriptors, so a constant that is wrong cannot pass.
"""

from __future__ import annotations

from pointsman.extproc.protobytes import Message

# google.protobuf

VALUE = Message("google.protobuf.Value")
STRUCT = Message("google.protobuf.Struct")
LIST_VALUE = Message("google.protobuf.ListValue")
VALUE.field("null_value", 1, "varint", oneof=True)
VALUE.field("number_value", 2, "fixed64", oneof=True)
STRING_VALUE = VALUE.field("string_value", 3, "string", oneof=True)
VALUE.field("bool_value", 4, "varint", oneof=True)
STRUCT_VALUE = VALUE.field("struct_value", 5, "message", STRUCT, oneof=True)
LIST = VALUE.field("list_value", 6, "message", LIST_VALUE, oneof=True)
STRUCT_FIELDS = STRUCT.field("fields", 1, "map", VALUE)
LIST_VALUES = LIST_VALUE.field("values", 1, "repeated", VALUE)

# From the proxy

HEADER_VALUE = Message("pointsman.extproc.HeaderValue")
HEADER_KEY = HEADER_VALUE.field("key", 1, "string")
HEADER_TEXT = HEADER_VALUE.field("value", 2, "string")
HEADER_RAW = HEADER_VALUE.field("raw_value", 3, "bytes")

HEADER_MAP = Message("pointsman.extproc.HeaderMap")
MAP_HEADERS = HEADER_MAP.field("headers", 1, "repeated", HEADER_VALUE)

METADATA = Message("pointsman.extproc.Metadata")
FILTER_METADATA = METADATA.field("filter_metadata", 1, "map", STRUCT)

PROTOCOL = Message("pointsman.extproc.ProtocolConfiguration")
REQUEST_BODY_MODE = PROTOCOL.field("request_body_mode", 1, "varint")
RESPONSE_BODY_MODE = PROTOCOL.field("response_body_mode", 2, "varint")
PROTOCOL.field("send_body_without_waiting_for_header_response", 3, "varint")

HTTP_HEADERS = Message("pointsman.extproc.HttpHeaders")
HEADERS_MAP = HTTP_HEADERS.field("headers", 1, "message", HEADER_MAP)
HEADERS_END = HTTP_HEADERS.field("end_of_stream", 3, "varint")

HTTP_BODY = Message("pointsman.extproc.HttpBody")
BODY_DATA = HTTP_BODY.field("body", 1, "bytes")
BODY_END = HTTP_BODY.field("end_of_stream", 2, "varint")

HTTP_TRAILERS = Message("pointsman.extproc.HttpTrailers")
TRAILERS_MAP = HTTP_TRAILERS.field("trailers", 1, "message", HEADER_MAP)

REQUEST = Message("pointsman.extproc.ProcessingRequest")
REQUEST_HEADERS = REQUEST.field("request_headers", 2, "message", HTTP_HEADERS, oneof=True)
RESPONSE_HEADERS = REQUEST.field("response_headers", 3, "message", HTTP_HEADERS, oneof=True)
REQUEST_BODY = REQUEST.field("request_body", 4, "message", HTTP_BODY, oneof=True)
RESPONSE_BODY = REQUEST.field("response_body", 5, "message", HTTP_BODY, oneof=True)
REQUEST_TRAILERS = REQUEST.field("request_trailers", 6, "message", HTTP_TRAILERS, oneof=True)
RESPONSE_TRAILERS = REQUEST.field("response_trailers", 7, "message", HTTP_TRAILERS, oneof=True)
METADATA_CONTEXT = REQUEST.field("metadata_context", 8, "message", METADATA)
REQUEST.field("attributes", 9, "map", STRUCT)
REQUEST.field("observability_mode", 10, "varint")
PROTOCOL_CONFIG = REQUEST.field("protocol_config", 11, "message", PROTOCOL)

# To the proxy

HEADER_OPTION = Message("pointsman.extproc.HeaderValueOption")
OPTION_HEADER = HEADER_OPTION.field("header", 1, "message", HEADER_VALUE)
OPTION_ACTION = HEADER_OPTION.field("append_action", 3, "varint")

MUTATION = Message("pointsman.extproc.HeaderMutation")
SET_HEADERS = MUTATION.field("set_headers", 1, "repeated", HEADER_OPTION)
REMOVE_HEADERS = MUTATION.field("remove_headers", 2, "string")  # repeated, but replies are never read here

STREAMED = Message("pointsman.extproc.StreamedBodyResponse")
STREAMED_DATA = STREAMED.field("body", 1, "bytes")
STREAMED_END = STREAMED.field("end_of_stream", 2, "varint")

BODY_MUTATION = Message("pointsman.extproc.BodyMutation")
NEW_BODY = BODY_MUTATION.field("body", 1, "bytes", oneof=True)
STREAMED_RESPONSE = BODY_MUTATION.field("streamed_response", 3, "message", STREAMED, oneof=True)

COMMON = Message("pointsman.extproc.CommonResponse")
COMMON_HEADERS = COMMON.field("header_mutation", 2, "message", MUTATION)
COMMON_BODY = COMMON.field("body_mutation", 3, "message", BODY_MUTATION)
CLEAR_ROUTE_CACHE = COMMON.field("clear_route_cache", 5, "varint")

HEADERS_RESPONSE = Message("pointsman.extproc.HeadersResponse")
COMMON_RESPONSE = HEADERS_RESPONSE.field("response", 1, "message", COMMON)
BODY_RESPONSE = Message("pointsman.extproc.BodyResponse")
BODY_RESPONSE.field("response", 1, "message", COMMON)
TRAILERS_RESPONSE = Message("pointsman.extproc.TrailersResponse")

HTTP_STATUS = Message("pointsman.extproc.HttpStatus")
STATUS_CODE = HTTP_STATUS.field("code", 1, "varint")

IMMEDIATE = Message("pointsman.extproc.ImmediateResponse")
IMMEDIATE_STATUS = IMMEDIATE.field("status", 1, "message", HTTP_STATUS)
IMMEDIATE_HEADERS = IMMEDIATE.field("headers", 2, "message", MUTATION)
IMMEDIATE_BODY = IMMEDIATE.field("body", 3, "bytes")
IMMEDIATE_DETAILS = IMMEDIATE.field("details", 5, "string")

MODE = Message("pointsman.extproc.ProcessingMode")
RESPONSE_HEADER_MODE = MODE.field("response_header_mode", 2, "varint")
OVERRIDE_BODY_MODE = MODE.field("response_body_mode", 4, "varint")

RESPONSE = Message("pointsman.extproc.ProcessingResponse")
REPLIES = {
    "request_headers": RESPONSE.field("request_headers", 1, "message", HEADERS_RESPONSE, oneof=True),
    "response_headers": RESPONSE.field("response_headers", 2, "message", HEADERS_RESPONSE, oneof=True),
    "request_body": RESPONSE.field("request_body", 3, "message", BODY_RESPONSE, oneof=True),
    "response_body": RESPONSE.field("response_body", 4, "message", BODY_RESPONSE, oneof=True),
    "request_trailers": RESPONSE.field("request_trailers", 5, "message", TRAILERS_RESPONSE, oneof=True),
    "response_trailers": RESPONSE.field("response_trailers", 6, "message", TRAILERS_RESPONSE, oneof=True),
}
IMMEDIATE_RESPONSE = RESPONSE.field("immediate_response", 7, "message", IMMEDIATE, oneof=True)
DYNAMIC_METADATA = RESPONSE.field("dynamic_metadata", 8, "message", STRUCT)
MODE_OVERRIDE = RESPONSE.field("mode_override", 9, "message", MODE)

OVERWRITE_IF_EXISTS_OR_ADD = 2
SEND = 1

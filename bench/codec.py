"""Time per message of the two codecs: generated protobuf classes, and our own. Same bytes, same run, no network.

Prints microseconds, the best of several repeats. The request headers are those of Envoy 1.40 in front of a chat
client; request id, length and trace differ in every message, as they do in life. "new hint": the subset hint differs
too, so that no cache knows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from random import Random
from time import perf_counter
from typing import Any, TypeAlias

from pointsman.api.request import RequestHead
from pointsman.extproc import codec, fastcodec, wire

Case: TypeAlias = tuple[str, Callable[[Any], object], Callable[[Any], object], Sequence[Any]]

RNG = Random(1)
MESSAGES = 500
HINT = ("10.0.0.11:8000", "10.0.0.12:8000", "10.0.0.13:8000")


def hexes(digits: int) -> str:
    return f"{RNG.getrandbits(digits * 4):0{digits}x}"


def request_headers() -> dict[str, str]:
    """Fifteen, three of which are never the same."""
    request_id = hexes(32)
    return {
        ":authority": "inference.example.com",
        ":path": "/v1/chat/completions",
        ":method": "POST",
        ":scheme": "https",
        "user-agent": "OpenAI/Python 2.8.1",
        "accept": "application/json",
        "accept-encoding": "gzip, deflate",
        "content-type": "application/json",
        "content-length": str(RNG.randrange(1000, 99999)),
        "authorization": "Bearer sk-0123456789abcdef0123456789abcdef",
        "x-stainless-lang": "python",
        "x-stainless-retry-count": "0",
        "x-forwarded-proto": "https",
        "x-request-id": "-".join((request_id[:8], request_id[8:12], request_id[12:16], request_id[16:20], request_id)),
        "traceparent": f"00-{hexes(32)}-{hexes(16)}-01",
    }


def response_headers() -> dict[str, str]:
    return {
        ":status": "200",
        "date": f"Mon, 01 Jan 2024 00:00:{RNG.randrange(10, 60)} GMT",
        "server": "uvicorn",
        "content-type": "text/event-stream; charset=utf-8",
        "x-request-id": hexes(32),
        "x-envoy-upstream-service-time": str(RNG.randrange(5, 500)),
    }


def first_message(hint: tuple[str, ...] | None) -> bytes:
    head = RequestHead(request_headers(), hint)
    both = wire.BodyMode.BUFFERED, wire.BodyMode.NONE
    return codec.encode_request(wire.RequestHeaders(head, False, *both))


def decode_cases() -> list[Case]:
    decoders = codec.decode_request, fastcodec.decode_request
    many = range(MESSAGES)
    events: dict[str, list[bytes]] = {
        "request headers (15)": [first_message(None) for _ in many],
        "request headers, hint": [first_message(HINT) for _ in many],
        "request headers, new hint": [first_message((f"10.0.{n >> 8}.{n & 255}:8000", *HINT)) for n in range(3000)],
        "request body 24 KB": [codec.encode_request(wire.RequestBody(RNG.randbytes(24_000), True)) for _ in range(8)],
        "request body 1 MB": [codec.encode_request(wire.RequestBody(RNG.randbytes(1 << 20), True))],
        "response headers (6)": [codec.encode_request(wire.ResponseHeaders(response_headers())) for _ in many],
        "response headers, served": [
            codec.encode_request(wire.ResponseHeaders(response_headers(), served=RNG.choice(HINT))) for _ in many
        ],
        "response chunk 200 B": [codec.encode_request(wire.ResponseBody(RNG.randbytes(200))) for _ in many],
        "response trailers": [codec.encode_request(wire.ResponseTrailers())],
    }
    return [(name, *decoders, messages) for name, messages in events.items()]


def encode_cases() -> list[Case]:
    encoders = codec.encode_response, fastcodec.encode_response
    pods = [f"10.0.0.{n}:8000" for n in range(1, 65)]
    headers = [(("x-request-id", hexes(32)),) for _ in range(MESSAGES)]
    text = RNG.randbytes(24_000)
    refusal = wire.Immediate(429, (("content-type", "application/json"),), b'{"error":{}}', "pointsman_shed")
    actions: dict[str, list[wire.Action]] = {
        "continue": [wire.Continue("request_headers")],
        "continue, mode override": [wire.Continue("response_headers", wire.BodyMode.STREAMED)],
        "route": [wire.Route("request_body", pod) for pod in pods],
        "route, list of 3": [wire.Route("request_body", ",".join(RNG.sample(pods[:8], 3))) for _ in range(MESSAGES)],
        "route, request id": [wire.Route("request_body", RNG.choice(pods), pair) for pair in headers],
        "route, 24 KB body": [wire.Route("request_body", RNG.choice(pods), pair, text) for pair in headers],
        "chunk 200 B": [wire.Chunk(text[:200], False, response=True)],
        "chunk 24 KB": [wire.Chunk(text, True)],
        "immediate": [refusal],
    }
    return [(name, *encoders, samples) for name, samples in actions.items()]


def measure(call: Callable[[Any], object], samples: Sequence[Any], repeats: int, count: int) -> float:
    """Microseconds per call, the best of ``repeats``."""
    loops = max(1, count // len(samples))
    best = float("inf")
    for _ in range(repeats):
        start = perf_counter()
        for _ in range(loops):
            for sample in samples:
                call(sample)
        best = min(best, perf_counter() - start)
    return best / loops / len(samples) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    for title, cases in (("decode", decode_cases()), ("encode", encode_cases())):
        print(f"{title:<28} {'generated':>12} {'own':>12} {'ratio':>7}")
        for name, reference, own, samples in cases:
            slow, fast = (measure(call, samples, options.repeats, options.count) for call in (reference, own))
            print(f"{name:<28} {slow:>9.2f} µs {fast:>9.2f} µs {slow / fast:>6.1f}x")
        print()


if __name__ == "__main__":
    main()

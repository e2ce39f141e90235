"""A mutation fuzzer for the HTTP/2 connection and what hangs on it, down to the messages.

Seeds are sessions of a real Envoy (record_seeds.py). Each case takes one, cuts it into frames, breaks something (bits,
lengths, kinds, flags, stream ids, order, repeats, pieces of another session, the content of messages) and plays it in
pieces of any size to a connection with real streams behind it, whose answers also go through flow control. What must
hold is checked after each: no exception, no hang, bounded memory, legal output, and each call told of its end once.

``python tests/extproc/fuzz.py --count 1000000`` runs many and prints what it found; a case is repeated by its number.
"""

from __future__ import annotations

import argparse
import resource
import struct
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest, RequestHead
from pointsman.api.result import EndCause, RoutingDecision
from pointsman.extproc.flow import MIB
from pointsman.extproc.frames import PREFACE, ErrorCode
from pointsman.extproc.http2 import Connection, HalfClosed, Http2Limits, Message, StreamOpened
from pointsman.extproc.services import Call, process_service
from pointsman.extproc.stream import Limits
from pointsman.extproc.wire import WireError

SEEDS = Path(__file__).resolve().parent.parent / "data" / "extproc"
LIMITS = Http2Limits(max_streams=50, max_message=MIB, max_pending=MIB, max_buffered=2 * MIB, nuisances=(50, 10))
SECONDS_A_CASE, MEMORY_MIB = 2.0, 30
RECORD: Any = None


class Exchange:
    observe_body = True

    def __init__(self, decision: RoutingDecision) -> None:
        self.decision = decision
        self.ends = 0

    def served(self, hostport: str) -> None: ...

    def response_headers(self, status: int, *, event_stream: bool) -> None: ...

    def response_body(self, chunk: bytes, *, last: bool) -> None: ...

    def end(self, cause: EndCause) -> None:
        self.ends += 1


class Decider:
    def __init__(self) -> None:
        endpoint = Endpoint(EndpointId("ns/a"), "10.0.0.1", 8000)
        self.decision = RoutingDecision(InferenceRequest(id="r", model="m"), (endpoint,), RECORD)
        self.exchanges: list[Exchange] = []

    def decide(self, head: RequestHead, body: bytes, *, received: float) -> Exchange:
        self.exchanges.append(Exchange(self.decision))
        return self.exchanges[-1]


class Host:
    """What a server does around a connection, without sockets."""

    def __init__(self) -> None:
        self.connection = Connection(LIMITS)
        self.decider = Decider()
        self.calls: dict[int, Call] = {}
        self.opened: set[int] = set()
        self.sent = bytearray()
        [self.service] = process_service(self.decider, Limits(max_body_bytes=MIB), self.failed).values()

    def play(self, data: bytes, now: float) -> None:
        for event in self.connection.receive(data, now):
            match event:
                case StreamOpened():
                    assert event.id not in self.opened
                    self.opened.add(event.id)
                    self.calls[event.id] = self.service(_Reply(self, event.id))
                case Message():
                    if event.id in self.calls:
                        self.calls[event.id].message(event.data)
                case HalfClosed():
                    if event.id in self.calls:
                        self.calls[event.id].half_closed()
                case _:
                    self.over(event.id)
        self.sent += self.connection.data_to_send()

    @staticmethod
    def failed(error: Exception) -> None:
        if not isinstance(error, WireError):
            raise error

    def over(self, stream_id: int) -> None:
        call = self.calls.pop(stream_id, None)
        if call is not None:
            call.over()

    def end(self) -> None:
        for stream_id in list(self.calls):
            self.over(stream_id)


class _Reply:
    def __init__(self, host: Host, stream_id: int) -> None:
        self.host, self.id = host, stream_id

    def send(self, data: bytes) -> bool:
        good = self.host.connection.send_message(self.id, data)
        if not good:
            self.host.over(self.id)
        return good

    def finish(self, status: int = 0, text: str = "") -> None:
        self.host.connection.send_trailers(self.id, status, text)
        self.host.over(self.id)


def frames_of(data: bytes) -> list[bytes]:
    """A session without its preface, cut into frames."""
    position, result = len(PREFACE), []
    while position + 9 <= len(data):
        stop = position + 9 + int.from_bytes(data[position : position + 3], "big")
        result.append(data[position:stop])
        position = stop
    return result


def load_seeds() -> list[list[bytes]]:
    return [frames_of(path.read_bytes()) for path in sorted(SEEDS.glob("*.bin"))]


def check_output(sent: bytes) -> Counter[int]:
    """Every frame whole, of a kind that a server sends, with codes that exist; counts kinds."""
    kinds: Counter[int] = Counter()
    position = 0
    while position < len(sent):
        word, _, stream_id = struct.unpack_from(">IBI", sent, position)
        size, kind = word >> 8, word & 0xFF
        payload = sent[position + 9 : position + 9 + size]
        assert len(payload) == size
        assert kind in {0, 1, 3, 4, 6, 7, 8}
        assert (stream_id == 0) == (kind in {4, 6, 7}) or kind == 8
        if kind in {3, 7}:
            ErrorCode(int.from_bytes(payload[:4] if kind == 3 else payload[4:8], "big"))
        kinds[kind] += 1
        position += 9 + size
    return kinds


# Mutations: each takes the frames and changes them in place


def flip_bits(frames: list[bytes], random: Random) -> None:
    index = random.randrange(len(frames))
    data = bytearray(frames[index])
    first = 9 if len(data) > 9 and random.random() < 0.8 else 0
    for _ in range(random.choice((1, 1, 2, 8))):
        data[random.randrange(first, len(data))] ^= 1 << random.randrange(8)
    frames[index] = bytes(data)


def set_header(frames: list[bytes], random: Random) -> None:
    """A frame's kind, flags or stream id, with the length left right."""
    index = random.randrange(len(frames))
    data = bytearray(frames[index])
    match random.randrange(3):
        case 0:
            data[3] = random.randrange(12)
        case 1:
            data[4] = random.choice((0, 1, 4, 5, 8, 9, 0x20, 0x2D, random.randrange(256)))
        case _:
            data[5:9] = struct.pack(">I", random.choice((0, 1, 2, 3, 5, 7, 9, 11, 101, 2**31 - 1, 2**32 - 1)))
    frames[index] = bytes(data)


def new_payload(frames: list[bytes], random: Random) -> None:
    """Bytes cut out, doubled or put in, with the length mended."""
    index = random.randrange(len(frames))
    head, payload = frames[index][:9], frames[index][9:]
    at = random.randrange(len(payload) + 1)
    match random.randrange(3):
        case 0:
            payload = payload[:at]
        case 1:
            payload = payload[:at] + random.randbytes(random.choice((1, 4, 100))) + payload[at:]
        case _:
            payload = payload[:at] + payload[at + random.choice((1, 5, 50)) :]
    frames[index] = len(payload).to_bytes(3, "big") + head[3:] + payload


def split_data(frames: list[bytes], random: Random) -> None:
    """The same DATA in more frames, some of them padded."""
    for index in range(len(frames) - 1, -1, -1):
        head, payload = frames[index][:9], frames[index][9:]
        if head[3] or head[4] or len(payload) < 2:
            continue
        at, padding = random.randrange(1, len(payload)), random.randrange(20)
        padded = bytes((padding,)) + payload[at:] + bytes(padding)
        frames[index : index + 1] = (
            at.to_bytes(3, "big") + head[3:] + payload[:at],
            len(padded).to_bytes(3, "big") + b"\0\x08" + head[5:] + padded,
        )


def reorder(frames: list[bytes], random: Random) -> None:
    """A frame repeated, moved or left out."""
    index = random.randrange(len(frames))
    match random.randrange(4):
        case 0:
            frames[index:index] = [frames[index]] * random.choice((1, 1, 2, 60))
        case 1 if len(frames) > 1:
            del frames[index]
        case _:
            frame = frames.pop(index)
            frames.insert(random.randrange(len(frames) + 1), frame)


def invent(frames: list[bytes], random: Random) -> None:
    """A frame that is legal or nearly so, where it need not be."""
    kind = random.randrange(11)
    setting = struct.pack(">HI", random.randrange(1, 7), random.choice((0, 1, 16384, 65535, 2**31 - 1, 2**32 - 1)))
    number = struct.pack(">I", random.randrange(1, 2**31))
    payload = random.choice((b"", bytes(4), b"\x7f\xff\xff\xff", setting, number, random.randbytes(8)))
    head = struct.pack(">IBI", len(payload) << 8 | kind, random.choice((0, 1, 4, 5)), random.choice((0, 1, 3, 5, 7)))
    frames.insert(random.randrange(len(frames) + 1), head + payload)


MUTATIONS = (flip_bits, flip_bits, new_payload, new_payload, split_data, set_header, reorder, reorder, invent)


def case_bytes(number: int, seeds: list[list[bytes]]) -> tuple[bytes, Random]:
    """What case ``number`` plays, and the random numbers that go on to cut it."""
    random = Random(number)
    seed = random.choice(seeds)
    start = random.randrange(2, len(seed))
    # from the start, or from somewhere in the middle behind Envoy's first frames
    frames = seed[: random.randrange(3, 40)] if random.random() < 0.7 else seed[:2] + seed[start : start + 20]
    if random.random() < 0.1:
        frames += random.choice(seeds)[2:20]
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        random.choice(MUTATIONS)(frames, random)
    return PREFACE + b"".join(frames), random


def run_case(number: int, seeds: list[list[bytes]]) -> str:
    """Play one case and check what must hold.

    Returns:
        How it ended: a connection error's name, ``reset`` when a stream was reset or ``fine``.
    """
    data, random = case_bytes(number, seeds)
    host = Host()
    began, position, now = time.process_time(), 0, 1.0
    while position < len(data):
        size = random.choice((1, 9, 100, 400, 400, 2000, 2000, 65536))
        host.play(data[position : position + size], now)
        position += size
        now += 0.001
    host.end()
    assert time.process_time() - began < SECONDS_A_CASE, f"case {number} takes too long"
    assert len(host.sent) < 8 * len(data) + 65536, f"case {number} makes us talk too much"
    assert all(exchange.ends == 1 for exchange in host.decider.exchanges), f"case {number} leaks an exchange"
    kinds = check_output(bytes(host.sent))
    error = host.connection.error
    assert (error is not None) == bool(kinds[7]), f"case {number}: an error without GOAWAY"
    if error is not None:
        return error.code.name
    return "reset" if kinds[3] else "fine"


def run(count: int, first: int = 0) -> Counter[str]:
    """Play ``count`` cases; stops at the first that fails, by its assertion. Counts how they ended."""
    seeds, outcomes, before = load_seeds(), Counter[str](), 0
    for number in range(first, first + count):
        outcomes[run_case(number, seeds)] += 1
        if number - first == count // 10:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < MEMORY_MIB, f"memory grew by {grown} MiB"
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    began = time.perf_counter()
    outcomes = run(options.count, options.first)
    print(f"{options.count} cases in {time.perf_counter() - began:.0f} s, nothing found: {dict(outcomes)}")  # noqa: T201 - a tool for the command line


if __name__ == "__main__":
    main()

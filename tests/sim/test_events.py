from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from pointsman.sim.events import END_OF_REPLAY, EventPublisher, encode_batch
from pointsman.sim.kv import BlocksRemoved, BlocksStored, CacheCleared, CacheEvent

CAPTURE = Path(__file__).parents[1] / "data/captures/events_sample.jsonl"
EVENTS: list[CacheEvent] = [
    BlocksStored([11, 12], None, [1, 2, 3, 4], None, "salt"),
    BlocksStored([13], 12, [5, 6], "sql", "salt"),
    BlocksRemoved([11, 12]),
    CacheCleared(),
]


def captured() -> dict[str, dict[str, Any]]:
    """One real event of each type."""
    found = {}
    for line in CAPTURE.read_text().splitlines():
        for event in msgspec.msgpack.decode(bytes.fromhex(json.loads(line)["frames"][2]))[1]:
            found[event["type"]] = event
    return found


def test_events_have_the_captured_fields() -> None:
    wall, events, rank = msgspec.msgpack.decode(encode_batch(EVENTS, 2, 12.5))
    assert (wall, rank) == (12.5, 0)
    assert [event["type"] for event in events] == ["BlockStored"] * 2 + ["BlockRemoved"] * 2 + ["AllBlocksCleared"]
    real = captured()
    for event in events:
        assert event.keys() == real[event["type"]].keys()


def test_what_the_fields_say() -> None:
    first, second, removed, *_ = msgspec.msgpack.decode(encode_batch(EVENTS, 2, 12.5))[1]
    assert (first["block_hashes"], first["parent_block_hash"], first["token_ids"]) == ([11, 12], None, [1, 2, 3, 4])
    assert (first["extra_keys"], first["block_size"], first["lora_name"]) == ([["salt"], None], 2, None)
    assert (second["parent_block_hash"], second["lora_name"], second["extra_keys"]) == (12, "sql", [["sql"]])
    assert (removed["block_hashes"], removed["medium"]) == ([11], "GPU")


async def replay(context: zmq.asyncio.Context, endpoint: str, start: int) -> list[list[bytes]]:
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint)
    await socket.send_multipart([b"", start.to_bytes(8, "big")])
    replies: list[list[bytes]] = []
    while not replies or replies[-1][-2] != END_OF_REPLAY:
        replies.append(await asyncio.wait_for(socket.recv_multipart(), 5))
    socket.close(linger=0)
    return replies


async def conversation() -> tuple[list[list[bytes]], list[list[bytes]], list[list[bytes]]]:
    publisher = EventPublisher("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", "kv@p@m", 2, buffer_steps=3)
    publisher.start()
    source = publisher.sources()["0"]
    context = zmq.asyncio.Context()
    subscriber = context.socket(zmq.SUB)
    subscriber.subscribe("kv@")
    subscriber.connect(str(source["endpoint"]))
    await asyncio.sleep(0.3)  # a subscription takes a moment; what is sent before is lost
    for i in range(5):
        publisher.publish([BlocksRemoved([i])], float(i))
    live = [await asyncio.wait_for(subscriber.recv_multipart(), 5) for _ in range(5)]
    whole, future = [await replay(context, str(source["replay_endpoint"]), start) for start in (0, 99)]
    subscriber.close(linger=0)
    context.term()
    await publisher.stop()
    return live, whole, future


def test_a_subscriber_gets_numbered_batches_and_can_ask_again() -> None:
    live, whole, future = asyncio.run(conversation())
    assert [frames[0] for frames in live] == [b"kv@p@m"] * 5
    assert [int.from_bytes(frames[1], "big") for frames in live] == [0, 1, 2, 3, 4]
    assert [msgspec.msgpack.decode(frames[2])[1][0]["block_hashes"] for frames in live] == [[i] for i in range(5)]
    # The buffer holds three: history before them is lost.
    assert whole == [[b"", *frames] for frames in live[2:]] + [[b"", b"", END_OF_REPLAY, b""]]
    assert future == [[b"", b"", END_OF_REPLAY, b""]]

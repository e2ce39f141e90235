"""The captured streams, batch by batch, against an oracle that shares no code with what it checks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.kvcache.sinks import DictSink

from pointsman.errors import ConfigError
from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.events import BlockStored, decode_batch
from pointsman.kvcache.pod_view import PodView
from pointsman.kvcache.recording import Query, Recording

CAPTURES = Path(__file__).parents[1] / "data/captures"
LINES = (CAPTURES / "events_ab.jsonl").read_bytes().splitlines()
MESSAGES = [json.loads(line) for line in LINES]
REQUESTS = [json.loads(line) for line in (CAPTURES / "requests.jsonl").read_text().splitlines()]
BLOCK = 32
POD_A = [bytes.fromhex(message["frames"][2]) for message in MESSAGES if message["src"] == "pod-a"]


class Oracle:
    """Counts by hand; a live block is known by its whole prompt: adapter, salt and all tokens up to it."""

    def __init__(self) -> None:
        self.copies: Counter[int] = Counter()
        self.prompts: dict[int, Any] = {}

    def follow(self, payload: bytes) -> None:
        for event in msgspec.msgpack.decode(payload)[1]:
            if event["type"] == "AllBlocksCleared":
                self.copies.clear()
            elif event["type"] == "BlockRemoved":
                for value in event["block_hashes"]:
                    self.copies[value] -= 1
                    if self.copies[value] <= 0:
                        del self.copies[value]
            else:
                self.copies.update(event["block_hashes"])
                self.name(event)

    def name(self, event: dict[str, Any]) -> None:
        parent = event["parent_block_hash"]
        extra = (event["extra_keys"][0] or [])[1 if event["lora_name"] else 0 :]
        so_far = self.prompts[parent] if parent is not None else (event["lora_name"], *extra, ())
        for at, value in enumerate(event["block_hashes"]):
            tokens = (*so_far[-1], *event["token_ids"][at * BLOCK : (at + 1) * BLOCK])
            so_far = (*so_far[:-1], tokens)
            self.prompts[value] = so_far

    @property
    def live(self) -> set[int]:
        return set(self.copies)


@pytest.mark.parametrize("pod", ["pod-a", "pod-b"])
def test_every_batch_leaves_what_the_oracle_says(pod: str) -> None:
    oracle, sink = Oracle(), DictSink()
    view = PodView(sink, 0, "", max_copies=None)
    names: dict[int, Any] = {}  # own key -> whole prompt
    for message in MESSAGES:
        if message["src"] != pod:
            continue
        payload = bytes.fromhex(message["frames"][2])
        oracle.follow(payload)
        view.apply(decode_batch(payload))
        assert view.hashes() == oracle.live
        held = sink.keys.get((0, 0), set())
        assert len(held) == len({oracle.prompts[value] for value in oracle.live})
        for value in oracle.live:
            key = view._groups[0].key(value)
            assert key in held
            assert names.setdefault(key, oracle.prompts[value]) == oracle.prompts[value]


def wire(message: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(message | changes).encode()


def replay(lines: list[bytes], query: Query | None = None) -> dict[str, Any]:
    recording = Recording("x.jsonl")
    recording.feed(lines)
    found: dict[str, Any] = msgspec.to_builtins(recording.finish(query))
    return found


def live(pod: str, upto: int | None = None, since: int = 0) -> int:
    oracle = Oracle()
    for message in [message for message in MESSAGES if message["src"] == pod][since:upto]:
        payload = bytes.fromhex(message["frames"][2])
        for event in msgspec.msgpack.decode(payload)[1]:
            if event["type"] == "AllBlocksCleared":
                oracle.copies.clear()
            for value in event.get("block_hashes", ()):
                oracle.copies[value] += 1 if event["type"] == "BlockStored" else -1
                if oracle.copies[value] <= 0:
                    del oracle.copies[value]
    return len(oracle.copies)


def pod_lines(pod: str) -> list[bytes]:
    return [line for line, message in zip(LINES, MESSAGES, strict=True) if message["src"] == pod]


def test_the_whole_recording() -> None:
    found = replay(LINES)
    assert {name: list(ranks) for name, ranks in found.items()} == {"pod-a": ["0"], "pod-b": ["0"]}
    for name, batches in (("pod-a", 187), ("pod-b", 395)):
        summary = found[name]["0"]
        assert summary["live"] == {"GPU/0": live(name)}
        assert (summary["batches"], summary["gaps"], summary["restarts"]) == (batches, 0, 0)
        assert (summary["skipped"], summary["confidence"], summary["block_size"]) == ({}, 1.0, BLOCK)


def test_duplicated_and_reordered() -> None:
    lines = pod_lines("pod-b")
    twice = [line for line in lines for _ in range(2)]
    swapped = [lines[at ^ 1] if at ^ 1 < len(lines) else lines[at] for at in range(len(lines))]
    for disturbed in (twice, swapped):
        summary = replay(disturbed)["pod-b"]["0"]
        assert (summary["live"], summary["batches"]) == ({"GPU/0": live("pod-b")}, 395)
        assert summary["restarts"] == 0


def test_cut_and_started_late() -> None:
    lines = pod_lines("pod-b")
    cut = replay(lines[:100] + lines[110:])["pod-b"]["0"]
    assert (cut["gaps"], cut["batches"], cut["restarts"]) == (1, 385, 0)
    assert cut["confidence"] == 1.0  # the cache was cleared later
    assert 0.9 < replay(lines[:100] + lines[110:200])["pod-b"]["0"]["confidence"] < 1
    late = replay(lines[300:])["pod-b"]["0"]
    assert (late["gaps"], late["batches"], late["live"]) == (0, 95, {"GPU/0": live("pod-b", since=300)})


@pytest.mark.parametrize("at", [10, 100, 300])
def test_restarted(at: int) -> None:
    lines = pod_lines("pod-b")
    summary = replay(lines[:at] + lines)["pod-b"]["0"]
    assert summary["live"] == {"GPU/0": live("pod-b")}
    later = [message for message in MESSAGES if message["src"] == "pod-b"][:20]
    fresh = []
    for message in later:
        batch = msgspec.msgpack.decode(bytes.fromhex(message["frames"][2]))
        batch[0] += 1e6
        fresh.append(wire(message, frames=[*message["frames"][:2], msgspec.msgpack.encode(batch).hex()]))
    summary = replay(lines[:at] + fresh)["pod-b"]["0"]
    assert (summary["restarts"], summary["live"]) == (1, {"GPU/0": live("pod-b", upto=20)})


def test_unreadable_payloads_count_as_gaps() -> None:
    lines = pod_lines("pod-a")
    message = json.loads(lines[5])
    lines[5] = wire(message, frames=[*message["frames"][:2], "c1"])
    summary = replay(lines)["pod-a"]["0"]
    assert (summary["gaps"], summary["batches"], summary["skipped"]) == (1, 186, {"bad-payload": 1})


def test_answers_of_replays_are_read_too() -> None:
    found = replay((CAPTURES / "replay_a_from0.jsonl").read_bytes().splitlines())
    assert found["pod-a"]["0"]["batches"] == 60
    assert replay((CAPTURES / "replay_a_future.jsonl").read_bytes().splitlines()) == {}


def test_queries() -> None:
    request = next(one for one in REQUESTS if one["tag"] == "shared-3" and one["server"] == "pod-a")
    prompts = [request["prompt_token_ids"], [1, 2], []]
    found = replay(pod_lines("pod-a")[:10], Query(prompts))
    assert found["pod-a"]["0"]["matched"] == [6, 0, 0]
    assert replay(pod_lines("pod-a")[:10], Query(prompts, "sql"))["pod-a"]["0"]["matched"] == [0, 0, 0]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"{}", b'{"frames": ["zz"]}', b'{"frames": ["", "", ""]}', b'{"frames": [1]}', b"\xff"]
)
def test_bad_lines_are_named(line: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^x\.jsonl:3: no recorded message"):
        replay([LINES[0], b"", line])


def test_predicted_cached_tokens_are_the_engines() -> None:
    """The capture has no times of requests: a request begins where its first new block is announced."""
    sink = DictSink()
    view = PodView(sink, 0, "")
    ahead = [decode_batch(payload) for payload in POD_A]
    exact = 0
    for request in REQUESTS:
        if request["server"] != "pod-a":
            continue
        body, prompt = request["request"], request["prompt_token_ids"]
        tokens = prompt + request["output_token_ids"][:-1]
        adapter = None if body["model"] == "tiny" else body["model"]
        salt = body.get("cache_salt")
        begin = next((at for at, batch in enumerate(ahead) if announces(batch, adapter, salt, tokens)), 0)
        for batch in ahead[:begin]:
            view.apply(batch)
        ahead = ahead[begin:]
        keys = token_block_keys(prompt, BLOCK, root_key("", adapter, salt))
        predicted = min(sink.leading(0, keys), (len(prompt) - 1) // BLOCK) * BLOCK
        reported = request["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert abs(predicted - reported) <= BLOCK, request["tag"]
        exact += predicted == reported
        while ahead and announces(ahead[0], adapter, salt, tokens):
            view.apply(ahead.pop(0))
    assert exact == 24


def announces(batch: Any, adapter: str | None, salt: str | None, tokens: list[int]) -> bool:
    """Whether a batch stores a part of a request."""
    return any(
        list(event.tokens) == tokens[at : at + len(event.tokens)]
        for event in batch.events
        if isinstance(event, BlockStored) and event.adapter == adapter
        if event.parent is not None
        or ((event.extra_keys or [None])[0] or [])[bool(adapter) :] == ([salt] if salt else [])
        for at in range(0, len(tokens) - len(event.tokens) + 1, BLOCK)
    )

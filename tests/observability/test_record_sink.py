from __future__ import annotations

import json
from array import array
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.builders import make_endpoint, make_outcome, make_request, make_result

from pointsman.api.record import DecisionRecord, ShadowRecord
from pointsman.api.request import InferenceRequest
from pointsman.api.result import Usage
from pointsman.clock import ManualClock
from pointsman.observability import record_sink
from pointsman.observability.record_files import RecordFiles
from pointsman.observability.record_lines import BLOCK_TOKENS, unpack
from pointsman.observability.record_sink import RecordSink

POD = make_endpoint(3, block_size=16, num_blocks=1000, models=frozenset({"base"}), engine="vllm")


class Recorded:
    """A sink over a folder, and what came of it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.counts: Counter[str] = Counter()
        self.folder = folder
        files = partial(RecordFiles, folder / "records.jsonl", options.pop("max_bytes", 1_000_000))
        self.sink = RecordSink(files, ManualClock(50.0), count=self._count, **options)

    def _count(self, result: str, number: int) -> None:
        self.counts[result] += number

    def put(self, request: InferenceRequest, **fields: Any) -> None:
        record = DecisionRecord(
            request_id=request.id, time=0.0, model=request.model, prompt_tokens=request.prompt_tokens, profile="p",
            unit="ms", chosen=POD.id, hostport=POD.hostport, destination="", result=make_result(POD), **fields,
        )  # fmt: skip
        outcome = make_outcome(POD, request, ttft_ms=12.3456, total_ms=99.0, usage=Usage(500, 7, 320))
        self.sink.add(outcome, record)

    def lines(self) -> list[dict[str, Any]]:
        self.sink.start()
        self.sink.stop()
        files = [*sorted(self.folder.glob("*-*.jsonl")), self.folder / "records.jsonl"]
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def requests(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["kind"] == "request"]


def words(name: str, count: int) -> array[int]:
    return array("I", [number % 50_000 for number in array("I", Random(name).randbytes(4 * count))])


def asked(ids: array[int], **fields: Any) -> InferenceRequest:
    defaults: dict[str, Any] = {"token_ids": ids, "prompt_tokens": len(ids), "model": "base", "arrival": 51.5}
    return make_request(**(defaults | fields))


def test_a_line_holds_what_a_replay_needs(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.sink.use("preset:x", {"kind": "EndpointPickerConfig"})
    shadow = ShadowRecord("default/pod-1", "h:1", 3.5, "ms", "queue")
    recorded.put(asked(words("a", 200), max_tokens=64, headers={"x-session-id": "s"}), shadow=shadow,
                 predicted_cached_tokens=128)  # fmt: skip
    head, pod, line = recorded.lines()
    assert head["policy"] == "preset:x"
    assert head["config"] == {"kind": "EndpointPickerConfig"}
    assert pod == {"kind": "pod", "id": POD.id, "engine": "vllm", "block_size": 16, "num_blocks": 1000}
    assert line["at"] == pytest.approx(1.5)
    assert (line["prompt_tokens"], line["exact"], line["max_tokens"]) == (200, True, 64)
    assert len(unpack(line["blocks"])) == 200 // BLOCK_TOKENS
    assert (line["ttft_ms"], line["total_ms"], line["status"], line["cause"]) == (12.346, 99.0, 200, "complete")
    assert (line["output_tokens"], line["cached_tokens"], line["engine_prompt_tokens"]) == (7, 320, 500)
    assert line["shadow"] == {"pod": "default/pod-1", "gain": 3.5, "reason": "queue"}
    assert line["scores"] == [[POD.id, 0.0]]
    assert "adapter" not in line
    assert recorded.counts == {"written": 1}


def test_prompts_that_begin_alike_have_hashes_that_begin_alike(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    common = words("common", 300)
    for name in ("a", "b"):
        recorded.put(asked(common + words(name, 300)))
    recorded.put(asked(common + words("a", 300), model="adapter"))
    first, second, adapter = (unpack(line["blocks"]) for line in recorded.requests())
    shared = 300 // BLOCK_TOKENS
    assert first[:shared] == second[:shared]
    assert not set(first[shared:]) & set(second[shared:])
    assert not set(first) & set(adapter)


def test_the_name_of_an_adapter_is_told_from_that_of_the_model(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.put(asked(words("a", 100), model="my-adapter"))
    assert recorded.requests()[0]["adapter"] == "my-adapter"


def test_nothing_of_what_was_said_is_there_and_the_key_is_another_each_time(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        recorded = Recorded(tmp_path / name)
        text = "my secret question " * 40
        recorded.put(make_request(text, id="request-77", headers={"x-session-id": "user-5", "authorization": "key"}))
        raw = (json.dumps(recorded.lines())).lower()
        assert all(word not in raw for word in ("secret", "question", "request-77", "user-5", "authorization", "key"))
        found.append(json.loads((tmp_path / name / "records.jsonl").read_text().splitlines()[-1]))
    one, two = found
    assert not set(unpack(one["blocks"])) & set(unpack(two["blocks"]))
    assert one["id"] != two["id"]
    assert one["session"] != two["session"]


def test_a_sample_keeps_sessions_and_prompts_that_begin_alike_together(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, sample=0.5, key=b"0" * 32)
    for group in range(40):
        for turn in range(3):
            session = {"x-session-id": f"s{group}"} if group % 2 else {}
            recorded.put(asked(words(f"g{group}", 64) + words(f"{group} {turn}", 64), headers=session))
    groups = Counter(line.get("session") or unpack(line["blocks"])[0] for line in recorded.requests())
    assert set(groups.values()) == {3}
    assert 10 < len(groups) < 30
    assert recorded.counts["written"] + recorded.counts["sampled-out"] == 120


def test_a_full_queue_loses_records_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_sink, "MAX_WAITING", 5)
    recorded = Recorded(tmp_path)
    for _ in range(8):
        recorded.put(asked(words("a", 10)))
    assert len(recorded.requests()) == 5
    assert recorded.counts == {"dropped": 3, "written": 5}


def test_long_prompts_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_sink, "MAX_WAITING_BYTES", 1000)
    recorded = Recorded(tmp_path)
    for _ in range(4):
        recorded.put(asked(words("a", 100)))
    assert len(recorded.requests()) == 2
    recorded.put(asked(words("a", 100)))
    assert recorded.counts["dropped"] == 2


def test_every_file_names_its_pods_and_its_policy(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path, max_bytes=8000)
    for number in range(20):
        recorded.put(asked(words(str(number), 100)))
    lines = recorded.lines()
    heads = [number for number, line in enumerate(lines) if line["kind"] == "head"]
    assert len(heads) > 2
    assert all(lines[number + 1]["kind"] == "pod" for number in heads)


def test_a_record_that_cannot_be_made_costs_no_other(tmp_path: Path) -> None:
    recorded = Recorded(tmp_path)
    recorded.put(asked(array("I", [1]), token_ids=["no number"], prompt_tokens=100))
    recorded.put(asked(words("a", 100)))
    recorded.put(asked(array("I"), prompt_tokens=0))  # nothing to compute, nothing to replay
    assert len(recorded.requests()) == 1
    assert recorded.counts == {"failed": 1, "written": 1}

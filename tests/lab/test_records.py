"""From a picker's records back to a workload."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lab.lab_builders import ids, shared_prefixes
from tests.lab.record_builders import record

from pointsman.errors import ConfigError, TraceError
from pointsman.lab.options import FleetOptions
from pointsman.lab.records import open_records, recorded_fleet
from pointsman.lab.records_file import scan
from pointsman.lab.requests import FixedWorkload, LabRequest
from pointsman.lab.runner import simulate
from pointsman.lab.traces import open_trace
from pointsman.observability.record_lines import BLOCK_TOKENS

FLEET = FleetOptions(pods=3)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    record(tmp_path, shared_prefixes(), FLEET)
    return tmp_path / "records.jsonl"


def common(one: LabRequest, other: LabRequest) -> int:
    pairs = enumerate(zip(one.tokens, other.tokens, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one.tokens), len(other.tokens)))


def test_lengths_arrivals_and_what_prompts_share_come_back(recorded: Path) -> None:
    asked = list(shared_prefixes().requests())
    found = list(open_records(recorded).requests())
    assert [len(one.tokens) for one in found] == [len(one.tokens) for one in asked]
    assert [one.max_tokens for one in found] == [one.max_tokens for one in asked]
    first = asked[0].arrival
    assert [one.arrival for one in found] == pytest.approx([one.arrival - first for one in asked], abs=1e-5)
    for i in range(0, len(asked), 3):
        for j in range(i + 1, len(asked), 5):
            blocks = common(asked[i], asked[j]) // BLOCK_TOKENS
            assert common(found[i], found[j]) == blocks * BLOCK_TOKENS
    assert list(open_records(recorded).requests()) == found


def test_the_same_policy_simulated_again_does_much_the_same(recorded: Path, tmp_path: Path) -> None:
    info = scan(recorded)
    again = simulate(str(tmp_path / "policy.yaml"), open_records(recorded), recorded_fleet(info, FLEET)).summary()
    assert again["success"] == 1.0
    measured = info.observed.cached_tokens / info.observed.prompt_tokens
    assert float(str(again["hit_rate"])) == pytest.approx(measured, abs=0.06)


def test_what_is_known_of_the_fleet_is_taken_over(recorded: Path) -> None:
    info = scan(recorded)
    assert info.requests == 30
    assert (len(info.pods), info.policy, info.exact) == (3, "policy.yaml", 30)
    fleet = recorded_fleet(info, FleetOptions(pods=99))
    assert fleet.pods == 3
    assert fleet.profile.kv_tokens == FLEET.profile.num_blocks * FLEET.profile.block_size


def test_a_folder_and_several_files_are_read_in_order(tmp_path: Path) -> None:
    record(tmp_path, shared_prefixes(), FLEET, max_bytes=40_000)
    files = sorted(tmp_path.glob("records-*.jsonl"))
    assert len(files) >= 2
    found = list(open_records(tmp_path).requests())
    assert len(found) == 30
    assert [one.arrival for one in found] == sorted(one.arrival for one in found)


def test_options_of_traces_hold(recorded: Path) -> None:
    whole = list(open_records(recorded).requests())
    fast = list(open_trace(recorded, "records", speed=2.0).requests())
    assert [one.arrival for one in fast] == pytest.approx([one.arrival / 2 for one in whole])
    part = list(open_trace(recorded, "records", slice=(2.0, 4.0)).requests())
    assert [len(one.tokens) for one in part] == [len(one.tokens) for one in whole if 2 <= one.arrival < 4]
    assert len(list(open_records(recorded, limit=7).requests())) == 7
    copies = list(open_records(recorded, scale_users=2).requests())
    assert len(copies) == 60
    assert len({one.id for one in copies}) == 60
    assert [one.arrival for one in copies] == sorted(one.arrival for one in copies)
    assert len({bytes(one.tokens) for one in copies}) == 60
    with pytest.raises(ConfigError, match="--speed"):
        open_records(recorded, speed=0)


def test_it_travels_to_other_processes(recorded: Path) -> None:
    workload = open_records(recorded)
    there = pickle.loads(pickle.dumps(workload))
    assert list(there.requests()) == list(workload.requests())


def test_answers_of_unknown_length_get_one_of_those_known(recorded: Path) -> None:
    def forget(line: dict[str, Any]) -> None:
        if line["kind"] == "request" and line["prompt_tokens"] % 2 == 0:
            line.pop("output_tokens")
            line["max_tokens"] = 20

    rewrite(recorded, forget)
    assert {one.max_tokens for one in open_records(recorded).requests()} <= {20, 30}


def test_a_session_stays_one(tmp_path: Path) -> None:
    asked = [LabRequest(id=f"r{i}", arrival=i, tokens=ids(f"{i}", 100), max_tokens=3,
                        headers={"x-session-id": f"s{i % 2}"}) for i in range(4)]  # fmt: skip
    record(tmp_path, FixedWorkload("sessions", asked), FLEET)
    found = [one.session for one in open_records(tmp_path).requests()]
    assert found == [found[0], found[1]] * 2
    assert len(set(found)) == 2


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_last_line_that_is_cut_off_is_left_out(recorded: Path) -> None:
    data = recorded.read_bytes()
    for cut in (1, 10, 200):
        recorded.write_bytes(data[:-cut])
        expected = 30 if cut == 1 else 29  # without its newline the line is whole
        assert scan(recorded).requests == expected
        assert len(list(open_records(recorded).requests())) == expected


def test_a_broken_line_elsewhere_is_named(recorded: Path) -> None:
    lines = recorded.read_bytes().splitlines(keepends=True)
    recorded.write_bytes(b"".join([*lines[:4], lines[4][:30] + b"\n", *lines[5:]]))
    with pytest.raises(TraceError, match=r"records.jsonl:5: no line of records"):
        open_records(recorded)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("prompt_tokens", 0, r"prompt_tokens: must be 1"),
        ("prompt_tokens", 10**9, r"prompt_tokens: must be 1"),
        ("prompt_tokens", 100, r"blocks: 13 blocks are more than 100"),
        ("blocks", "!!", r"blocks: no hashes"),
        ("blocks", "AAAA", r"blocks: no hashes"),
        ("output_tokens", -1, r"output_tokens: must be 0"),
        ("max_tokens", "many", r"no line of records"),
        ("kind", "else", r"no line of records"),
    ],
)
def test_values_that_cannot_be_are_refused_with_their_line(recorded: Path, field: str, value: Any, words: str) -> None:
    def spoil(line: dict[str, Any]) -> None:
        if line["kind"] == "request":
            line[field] = value

    rewrite(recorded, spoil)
    with pytest.raises(TraceError, match=rf"records.jsonl:\d+: .*{words}"):
        open_records(recorded)


def test_a_newer_format_is_refused(recorded: Path) -> None:
    rewrite(recorded, lambda line: line.update(version=99) if line["kind"] == "head" else None)
    with pytest.raises(TraceError, match=r"version 99.*newer Pointsman"):
        open_records(recorded)


def test_no_file_and_no_request_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        open_records(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(TraceError, match="no request"):
        open_records(tmp_path / "empty.jsonl")


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode)), max_size=6))
def test_garbage_is_never_anything_but_a_trace_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "g.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(TraceError):
        open_records(path)

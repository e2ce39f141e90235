"""Traces in open loop."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tests.lab.traces.trace_builders import CONTENT, MOONCAKE, lines_of, write

from pointsman.errors import ConfigError, TraceError
from pointsman.lab.requests import LabRequest
from pointsman.lab.runner import simulate
from pointsman.lab.traces import open_trace


def requests(path: Path, **options: object) -> list[LabRequest]:
    return list(open_trace(path, **options).requests())  # type: ignore[arg-type]


def common(one: LabRequest, other: LabRequest) -> int:
    """Tokens two prompts begin with alike."""
    pairs = enumerate(zip(one.tokens, other.tokens, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one.tokens), len(other.tokens)))


def test_prompts_share_what_their_blocks_share_and_have_their_lengths(tmp_path: Path) -> None:
    found = requests(write(tmp_path, CONTENT["mooncake"]))
    assert [len(one.tokens) for one in found] == [1100, 1030, 512]
    assert [one.max_tokens for one in found] == [5, 7, 1]
    assert common(found[0], found[1]) == 1024
    assert common(found[0], found[2]) == 0


def test_the_same_again_each_time_and_another_seed_is_another_workload(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT["mooncake"])
    workload = open_trace(path)
    assert list(workload.requests()) == list(workload.requests()) == requests(path)
    assert common(requests(path)[0], requests(path, seed=1)[0]) == 0


def test_prompts_are_continued_or_cut_to_their_length(tmp_path: Path) -> None:
    rows = [{**MOONCAKE[0], "input_length": 2000}, {**MOONCAKE[0], "input_length": 600}]
    long, short = requests(write(tmp_path, lines_of(rows)), jitter=0)
    assert [len(long.tokens), len(short.tokens), common(long, short)] == [2000, 600, 600]
    assert len(requests(write(tmp_path, lines_of(rows)), max_input=100)[0].tokens) == 100


def test_batches_are_spread_over_three_seconds_and_exact_stamps_are_kept(tmp_path: Path) -> None:
    rows = [{**MOONCAKE[0], "timestamp": 3000 * (number // 50) - (number % 50 == 7) * 1} for number in range(200)]
    rows[7]["timestamp"] = 2
    rows.append({**MOONCAKE[0], "timestamp": 13_400})
    path = write(tmp_path, lines_of(rows))
    found = [one.arrival for one in requests(path)]
    assert found == sorted(found)
    assert len(set(found)) == 201
    assert max(found[:50]) < 3.01
    assert max(found[150:200]) - min(found[150:200]) > 2
    assert found[-1] == 13.4
    plain = [one.arrival for one in requests(path, jitter=0, speed=2)]
    assert plain[-1] == 6.7
    assert len(set(plain)) < 12


def test_speed_slice_and_limit(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT["azure"].replace("50.9951690", "56.6805900"))
    assert [one.arrival for one in requests(path)] == [0.0, pytest.approx(10.0)]
    assert [one.arrival for one in requests(path, speed=4)] == [0.0, pytest.approx(2.5)]
    assert [one.arrival for one in requests(path, slice=(6, 20), speed=4)] == [pytest.approx(1.0)]
    assert len(requests(path, limit=1)) == len(requests(path, limit=1, sort=True)) == 1


def test_more_users_have_prompts_of_their_own_shifted_in_time(tmp_path: Path) -> None:
    path = write(tmp_path, CONTENT["mooncake"])
    found = requests(path, scale_users=3, jitter=0)
    assert [one.arrival for one in found] == sorted(one.arrival for one in found)
    assert len({one.id for one in found}) == 9
    by_copy = {copy: [one for one in found if one.id.startswith(f"{copy}-")] for copy in range(3)}
    for one, other in itertools.combinations(by_copy.values(), 2):
        assert one[0].arrival != other[0].arrival
        assert common(one[0], other[0]) == 0
    for copy in by_copy.values():
        assert common(copy[0], copy[1]) == 1024
        assert copy[2].arrival - copy[0].arrival == pytest.approx(6.5)


def test_prompts_without_blocks_are_like_no_other(tmp_path: Path) -> None:
    found = requests(write(tmp_path, CONTENT["burstgpt"]))
    assert [len(one.tokens) for one in found] == [472, 417]
    assert common(*found) == 0


def test_a_conversation_of_spans_grows(tmp_path: Path) -> None:
    first, alone, second = requests(write(tmp_path, CONTENT["otel"]))
    assert [one.arrival for one in (first, alone, second)] == [0.0, 3.0, 5.0]
    assert common(first, second) == 300
    assert common(first, alone) == 0
    assert (first.session, alone.session) == ("0/c", "")


def test_lengths_of_nothing_still_are_requests(tmp_path: Path) -> None:
    (found,) = requests(write(tmp_path, '{"timestamp": 0, "input_length": 0, "output_length": 0}'))
    assert (len(found.tokens), found.max_tokens) == (1, 1)


def test_a_broken_line_stops_the_run_where_it_is_reached(tmp_path: Path) -> None:
    path = write(tmp_path, lines_of(MOONCAKE * 2) + "{broken")
    with pytest.raises(TraceError, match=rf"{path}:7: no JSON"):
        simulate("default", open_trace(path, sort=True))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"speed": 0}, "--speed"),
        ({"speed": float("nan")}, "--speed"),
        ({"slice": (5, 5)}, "--slice"),
        ({"scale_users": 0}, "--scale-users"),
        ({"limit": 0}, "--limit"),
        ({"jitter": -1.0}, "--jitter"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        requests(write(tmp_path, CONTENT["mooncake"]), **options)

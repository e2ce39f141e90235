"""Slots by pod, pushed events, and what a snapshot told: believed a little, until the pod itself is heard."""

from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.kvcache import snapshot as disk
from pointsman.kvcache.blocks import token_block_keys
from pointsman.kvcache.event_keys import root_key
from pointsman.kvcache.events import BlockRemoved, BlockStored, EventBatch
from pointsman.kvcache.known_pods import PUSHED_CONFIDENCE, WARM_CONFIDENCE, WARM_SECONDS, KnownPods
from pointsman.kvcache.kv_index import CPU, GPU, KVIndex
from pointsman.kvcache.query import BadQueryError, Query, answer
from pointsman.kvcache.told import Told

TOKENS = list(range(8))
KEYS = token_block_keys(TOKENS, 2, root_key(""))
STORED = EventBatch(0.0, [BlockStored([1, 2, 3, 4], None, TOKENS, 2)])


class Fleet:
    def __init__(self) -> None:
        self.sure: dict[tuple[str, int], float] = {}
        self.index = KVIndex()
        self.pods = KnownPods(self.index, lambda pod, rank: self.sure.get((pod, rank), 0.0))

    def matched(self, pod: str) -> tuple[int, float]:
        found = answer(self.index, Query(model="m", token_ids=TOKENS), [pod], self.pods.places)[pod]
        return found.matched_blocks, found.confidence


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def snapshot_of(fleet: Fleet) -> list[disk.HolderSnapshot]:
    return list(fleet.pods.holders())


def test_a_followed_pod(fleet: Fleet) -> None:
    fleet.pods.describe("a", ["m", "alias"])
    view = fleet.pods.make_view("a", 0)
    assert view is not None
    view.apply(STORED)
    assert fleet.matched("a") == (4, 0.0)
    fleet.sure["a", 0] = 0.75
    assert fleet.matched("a") == (4, 0.75)
    assert fleet.pods.places("a")[0].models == {"m", "alias"}
    fleet.pods.remove("a")
    assert (fleet.matched("a"), len(fleet.index), fleet.pods.names()) == ((0, 0.0), 0, [])


def test_a_slot_is_used_again_and_comes_empty(fleet: Fleet) -> None:
    fleet.pods.push("a", "m", STORED)
    fleet.pods.remove("a")
    fleet.pods.make_view("b", 0, "m")
    assert fleet.pods.places("b")[0].slot == 0
    assert fleet.matched("b")[0] == 0


def test_pushed_events(fleet: Fleet) -> None:
    fleet.pods.push("a", "m", STORED)
    assert fleet.matched("a") == (4, PUSHED_CONFIDENCE)
    fleet.pods.push("a", "", EventBatch(0.0, [BlockRemoved([3])]))
    assert fleet.matched("a")[0] == 2
    with pytest.raises(BadQueryError, match="another model"):
        fleet.pods.push("a", "other", STORED)
    fleet.pods.make_view("b", 0, "m")
    with pytest.raises(BadQueryError, match="followed already"):
        fleet.pods.push("b", "m", STORED)


def test_a_stream_takes_the_place_of_pushed_events(fleet: Fleet) -> None:
    fleet.pods.push("a", "m", STORED)
    fleet.pods.make_view("a", 0, "m")
    assert fleet.matched("a") == (0, 0.0)
    (info,) = fleet.pods.infos()
    assert (info.source, info.gpu) == ("stream", 0)


def test_pods_have_a_bound(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.kvcache.known_pods.MAX_PODS", 2)
    for pod in ("a", "b"):
        fleet.pods.push(pod, "m", STORED)
    with pytest.raises(BadQueryError, match="pods"):
        fleet.pods.push("c", "m", STORED)
    assert fleet.pods.make_view("c", 0) is None
    assert fleet.pods.make_view("a", 1) is not None


def test_a_warm_start_ends_when_the_stream_is_heard(fleet: Fleet) -> None:
    fleet.pods.push("a", "m", STORED)
    fleet.pods.index.store(0, CPU, [77])
    told = snapshot_of(fleet)
    again = Fleet()
    assert again.pods.restore(told, 0.0) == 5
    assert again.pods.restore(told, 0.0) == 0
    assert again.matched("a") == (4, WARM_CONFIDENCE)
    assert again.pods.infos()[0].warm == 5
    view = again.pods.make_view("a", 0, "m")
    assert view is not None
    again.pods.refresh(1.0)
    assert again.matched("a") == (4, WARM_CONFIDENCE)
    view.apply(EventBatch(0.0, [BlockStored([1], None, TOKENS[:2], 2)]))
    assert sorted(unpacked(again)) == sorted([*KEYS, 77])
    again.sure["a", 0] = 1.0
    again.pods.refresh(2.0)
    assert again.matched("a") == (1, 1.0)
    assert unpacked(again) == KEYS[:1]


def unpacked(fleet: Fleet) -> list[int]:
    (holder,) = snapshot_of(fleet)
    return [key for tier in holder.tiers for key in disk.unpack(tier)]


def test_a_pod_that_never_comes_back_is_forgotten(fleet: Fleet) -> None:
    fleet.pods.push("a", "m", STORED)
    again = Fleet()
    again.pods.restore(snapshot_of(fleet), 0.0)
    again.pods.refresh(WARM_SECONDS)
    assert (again.pods.names(), len(again.index)) == ([], 0)


def test_a_file_holds_what_was_written(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "index"
    assert disk.read(path) is None
    fleet.pods.push("a", "m", STORED)
    disk.write(path, disk.Snapshot(1.0, snapshot_of(fleet)))
    found = disk.read(path)
    assert found is not None
    assert found.holders == snapshot_of(fleet)
    assert sorted(disk.unpack(found.holders[0].tiers[GPU])) == sorted(KEYS)
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("cut", [0, 1, 20, 60])
def test_a_file_that_is_no_snapshot(fleet: Fleet, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "index"
    fleet.pods.push("a", "m", STORED)
    disk.write(path, disk.Snapshot(1.0, snapshot_of(fleet)))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(disk.BadSnapshotError):
        disk.read(path)


def test_snapshots_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "index"
    for snapshot in (
        disk.Snapshot(1.0, [], version=2),
        disk.Snapshot(1.0, [disk.HolderSnapshot("a", 0, [], 2, [b"1", b"", b""])]),
        disk.Snapshot(1.0, [disk.HolderSnapshot("a", 0, [], 2, [])]),
    ):
        disk.write(path, snapshot)
        with pytest.raises(disk.BadSnapshotError):
            disk.read(path)
    with pytest.raises(disk.BadSnapshotError):
        disk.read(tmp_path)
    with pytest.raises(disk.BadSnapshotError):
        disk.unpack(b"1234567")


def test_a_pod_without_events_is_known_all_the_same(fleet: Fleet) -> None:
    fleet.pods.describe("a", [])
    assert fleet.pods.names() == ["a"]
    assert fleet.matched("a") == (0, 0.0)
    (info,) = fleet.pods.infos()
    assert (info.pod, info.source, info.confidence) == ("a", "none", 0.0)


def test_an_empty_holder_in_a_snapshot_takes_no_room(fleet: Fleet) -> None:
    assert fleet.pods.restore([disk.HolderSnapshot("a", 0, [], 2, [b"", b"", b""])], 0.0) == 0
    assert fleet.pods.names() == []


def test_a_pod_removed_while_a_snapshot_is_taken(fleet: Fleet) -> None:
    for pod in ("a", "b"):
        fleet.pods.push(pod, "m", STORED)
    taken = []
    for holder in fleet.pods.holders():
        taken.append(holder.pod)
        fleet.pods.remove("b")
        fleet.pods.push("c", "m", STORED)
    assert taken == ["a"]


def told(pod: str = "a", size: int = 2) -> Told:
    return Told(pod, 0, 1, whole=True, block_size=size, models=("m",), confidence=1.0, wall=0.0)


def test_what_other_replicas_tell_is_apart_from_what_is_heard(fleet: Fleet) -> None:
    assert fleet.pods.wants("a", 0)
    slot = fleet.pods.open(told(), 100.0)
    fleet.index.store(slot, GPU, KEYS)
    assert fleet.matched("a") == (4, WARM_CONFIDENCE)
    fleet.pods.trust("a", 0, 0.9, 6.0)
    assert fleet.matched("a") == (4, 0.9)
    assert [(one.pod, one.warm, one.confidence, one.source) for one in fleet.pods.infos()] == [("a", 4, 0.9, "shared")]
    fleet.pods.refresh(6.0)
    assert fleet.matched("a") == (4, WARM_CONFIDENCE)
    view = fleet.pods.make_view("a", 0)
    assert view is not None
    assert fleet.pods.facts("a", 0) == (0.0, 0, ("m",))
    fleet.sure["a", 0] = 0.5
    assert not fleet.pods.wants("a", 0)
    fleet.pods.refresh(6.0)
    assert fleet.pods.slot_of("a", 0) == -1
    assert fleet.matched("a")[0] == 0


def test_a_newer_memory_takes_the_place_of_an_older_one_and_ends_with_the_pod(fleet: Fleet) -> None:
    fleet.pods.restore([disk.HolderSnapshot("a", 0, ["m"], 2, [disk.pack(KEYS), b"", b""])], 0.0)
    slot = fleet.pods.slot_of("a", 0)
    assert fleet.pods.open(told(), 100.0) == slot
    assert fleet.matched("a") == (0, WARM_CONFIDENCE)
    fleet.pods.drop("a", 0)
    fleet.pods.trust("a", 0, 0.9, 100.0)
    assert fleet.pods.slot_of("a", 0) == -1
    fleet.pods.refresh(1.0)
    assert fleet.pods.names() == []
    fleet.pods.drop("a", 0)
    assert fleet.pods.facts("a", 0) == (0.0, 0, ())

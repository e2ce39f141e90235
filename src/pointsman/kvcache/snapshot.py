"""An index on disk: which pod held which block keys, so that a restarted indexer is not blind until events tell."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pointsman.errors import PointsmanError

VERSION = 1
MAX_BYTES = 4 * 1024**3
TIERS = 3
_KEY_BYTES = 8


class BadSnapshotError(PointsmanError):
    """A file that is no snapshot; whoever reads one starts cold."""

    reason = "bad-snapshot"


class HolderSnapshot(msgspec.Struct, frozen=True):
    """What one data-parallel rank of a pod held."""

    pod: str
    rank: int
    models: list[str]
    block_size: int
    tiers: list[bytes]
    """Packed keys by tier, fastest first."""


class Snapshot(msgspec.Struct, frozen=True):
    """What all held."""

    wall: float
    holders: list[HolderSnapshot]
    version: int = VERSION


def pack(keys: Sequence[int]) -> bytes:
    """Keys as little-endian bytes, eight each."""
    packed = array("Q", keys)
    if sys.byteorder == "big":  # pragma: no cover
        packed.byteswap()
    return packed.tobytes()


def unpack(data: bytes) -> array[int]:
    """The reverse of :func:`pack`.

    Raises:
        BadSnapshotError: if the length is not that of whole keys.
    """
    if len(data) % _KEY_BYTES:
        raise BadSnapshotError("a snapshot with part of a key")
    keys = array("Q", data)
    if sys.byteorder == "big":  # pragma: no cover
        keys.byteswap()
    return keys


def write(path: Path, snapshot: Snapshot) -> None:
    """Write a file as a whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(msgspec.msgpack.encode(snapshot))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read(path: Path) -> Snapshot | None:
    """A snapshot from a file; None if there is no file yet.

    Raises:
        BadSnapshotError: if it cannot be used.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadSnapshotError(f"{path}: larger than {MAX_BYTES} bytes")
        snapshot = msgspec.msgpack.decode(path.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadSnapshotError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadSnapshotError(f"{path}: no snapshot: {error}") from error
    if snapshot.version != VERSION:
        raise BadSnapshotError(f"{path}: version {snapshot.version}, this is {VERSION}")
    for holder in snapshot.holders:
        if len(holder.tiers) != TIERS or any(len(keys) % _KEY_BYTES for keys in holder.tiers):
            raise BadSnapshotError(f"{path}: the keys of {holder.pod} are not whole")
    return snapshot

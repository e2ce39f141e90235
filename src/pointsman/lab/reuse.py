"""How much of a trace's prompts has been seen before, and how large a cache has to be to still hold it.

One pass gives the hits of an ideal LRU of every size (Mattson's stack distances): a block is found in a cache of C
tokens if the blocks used since it was used last, itself included, have C tokens at most. As in an engine, a prompt
hits with its leading blocks only, and of one prompt the leading blocks are the ones kept longest.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec

CACHES = tuple(int(size * 1e6) for size in (0.45, 0.9, 1.8, 2.47, 3.6, 7.2, 14.4, 28.8, 57.6))
"""Cache sizes in tokens unless told otherwise; 2.47 M is 8 pods of Qwen3-32B on two H100 each."""
MOST_BLOCKS = 10_000_000
MOST_REQUESTS = 5_000_000
"""How far reuse is looked at: some 1 GB of memory."""
_FINE = 64
"""Buckets of distances in a factor of e: 1.6 % each."""


class Blocks(NamedTuple):
    """A prompt's blocks, each named by a number that stands for it and all before it."""

    keys: Sequence[int]
    size: int
    """Tokens of each but the last."""
    last: int
    """Tokens of the last."""


class ReuseReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        requests: looked at; fewer than the trace has, if it has more blocks than fit in memory.
        prompt_tokens: of those.
        hit_tokens: found in a cache without limit.
        hit_share: of the prompt tokens.
        unique_tokens: tokens such a cache holds in the end.
        lru: cache size in tokens, and the share of the prompt tokens found in an LRU of that size.
        distance_tokens: percentiles of the tokens used between two uses of a token that is found again.
        distance_s: the same of the time.
    """

    requests: int
    prompt_tokens: int
    hit_tokens: int
    hit_share: float
    unique_tokens: int
    lru: dict[str, float]
    distance_tokens: dict[str, float | None]
    distance_s: dict[str, float | None]


class Reuse:
    """Takes requests in order.

    Args:
        caches: sizes of interest, tokens.
    """

    def __init__(self, caches: Sequence[int] = CACHES) -> None:
        self._caches = sorted(caches)
        self._found = [0] * (len(self._caches) + 1)  # hit tokens by the smallest size that has them
        self._last: dict[int, int] = {}  # block: request that used it last
        self._held = _Sums()  # tokens last used by each request
        self._times: list[float] = []
        self._tokens: Counter[int] = Counter()
        self._seconds: Counter[int] = Counter()
        self.requests = self.prompt_tokens = self.unique_tokens = 0
        self.full = False

    def add(self, at: float, length: int, blocks: Blocks) -> None:
        """The next request: seconds, prompt tokens, and the prompt's blocks in order."""
        if self.full:
            return
        request = self.requests
        self.requests += 1
        self.prompt_tokens += length
        self._times.append(at)
        self._held.grow(request)
        # Runs of blocks last used by the same request, so that the work is done by the run: agents' prompts have
        # thousands of blocks.
        users = list(map(self._last.get, blocks.keys))
        moved: list[tuple[int, int]] = []
        used = done = farthest = 0
        for before, run in groupby(users):
            count = len(list(run))
            done += count
            tokens = count * blocks.size - (blocks.size - blocks.last if done == len(users) else 0)
            used += tokens
            if before is None:
                self.unique_tokens += tokens
                continue
            farthest = self._hit(at - self._times[before], self._held.after(before), farthest, tokens, blocks.size)
            moved.append((before, -tokens))
        # Only now: what this prompt used of other requests' blocks came after theirs, too.
        for before, tokens in (*moved, (request, used)):
            self._held.change(before, tokens)
        self._last.update(dict.fromkeys(blocks.keys, request))
        self.full = len(self._last) > MOST_BLOCKS or self.requests >= MOST_REQUESTS

    def _hit(self, age: float, since: int, farthest: int, tokens: int, size: int) -> int:
        """Count a run of found tokens: so many were used after its request, and it begins behind ``farthest``.

        Returns:
            The distance of its last block.
        """
        self._seconds[_bucket(max(0.0, age))] += tokens
        done = 0
        while done < tokens:
            distance = max(farthest, since + min(tokens, done + size))
            bucket = _bucket(distance)
            place = bisect_left(self._caches, distance)
            upto = math.exp((bucket + 0.5) / _FINE)
            if place < len(self._caches):
                upto = min(upto, self._caches[place])
            # All blocks up to there are alike: the same bucket, the same caches hold them.
            more = tokens if upto >= max(farthest, since + tokens) else int(upto - since) // size * size
            more = max(more, min(tokens, done + size))
            self._found[place] += more - done
            self._tokens[bucket] += more - done
            done = more
        return max(farthest, since + tokens)

    def report(self) -> ReuseReport:
        """Of all so far."""
        total, hits, lru = self.prompt_tokens, 0, {}
        for size, found in zip(self._caches, self._found, strict=False):
            hits += found
            lru[str(size)] = hits / total if total else 0.0
        hits += self._found[-1]
        return ReuseReport(
            requests=self.requests,
            prompt_tokens=total,
            hit_tokens=hits,
            hit_share=hits / total if total else 0.0,
            unique_tokens=self.unique_tokens,
            lru=lru,
            distance_tokens=_percentiles(self._tokens),
            distance_s=_percentiles(self._seconds),
        )


class _Sums:
    """Numbers in a row that are changed one at a time, and sums of those after one (a Fenwick tree that grows)."""

    def __init__(self) -> None:
        self._tree = [0]
        self._total = 0

    def grow(self, index: int) -> None:
        """A zero at the end, which has that index."""
        place = index + 1
        total, step = 0, 1
        while step < place & -place:
            total += self._tree[place - step]
            step <<= 1
        self._tree.append(total)

    def change(self, index: int, by: int) -> None:
        self._total += by
        place = index + 1
        while place < len(self._tree):
            self._tree[place] += by
            place += place & -place

    def after(self, index: int) -> int:
        """Sum of the numbers behind that one."""
        total, place = self._total, index + 1
        while place:
            total -= self._tree[place]
            place &= place - 1
        return total


def _bucket(value: float) -> int:
    return round(math.log(value) * _FINE) if value > 1e-3 else -1000


def _percentiles(buckets: Counter[int]) -> dict[str, float | None]:
    """Weighted, within 1 %; None without values."""
    total = sum(buckets.values())
    found: dict[str, float | None] = {}
    for name, share in (("p5", 0.05), ("p25", 0.25), ("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p95", 0.95)):
        seen = 0
        found[name] = None
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            if seen >= share * total > 0:
                found[name] = float(f"{math.exp(bucket / _FINE):.3g}") if bucket > -1000 else 0.0
                break
    return found

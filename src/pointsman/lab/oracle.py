"""What a workload allows at best: the yardstick that results are a share of.

Cache: an ideal LRU of the whole fleet's capacity, shared by all pods, is what a router can hope to come near; Belady's
cache of that size bounds even engines that evict otherwise; the cache without limit is the workload's own reuse. Time
to first token: :mod:`pointsman.lab.oracle_ttft`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from pointsman.kvcache.blocks import chain_seed, token_block_key_array
from pointsman.lab.options import FleetOptions
from pointsman.lab.oracle_cache import Step, belady_hits, lru_hits, unlimited_hits
from pointsman.lab.oracle_tree import PrefixTree
from pointsman.lab.oracle_ttft import PrefillJob, TtftBound, ttft_bound
from pointsman.lab.requests import LabRequest, Workload
from pointsman.lab.results import Row
from pointsman.sim.tokens import answer_ids, answer_offset

BLOCK = 64
"""Tokens per block unless told otherwise."""


class Achievable(msgspec.Struct, frozen=True, kw_only=True):
    """The best that is possible.

    Attributes:
        requests: counted ones (a warm-up fills caches, but is not counted).
        prompt_tokens: of those.
        capacity_tokens: of the whole fleet's caches.
        lru_tokens: prompt tokens found in an ideal LRU of that capacity, shared by the fleet.
        belady_tokens: the same of a cache that knows the future: the outer bound.
        unlimited_tokens: the same of a cache without limit.
        ttft: lower bounds on the time to first token; None when no fleet was given.
    """

    requests: int
    prompt_tokens: int
    capacity_tokens: int
    lru_tokens: int
    belady_tokens: int
    unlimited_tokens: int
    ttft: TtftBound | None = None

    def rate(self, tokens: int) -> float:
        """Tokens as a share of all prompt tokens."""
        return tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def summary(self) -> dict[str, object]:
        """Figures for tables and scripts: shares of the prompt tokens, milliseconds."""
        return {
            "requests": self.requests,
            "capacity_tokens": self.capacity_tokens,
            "lru_hit_rate": self.rate(self.lru_tokens),
            "belady_hit_rate": self.rate(self.belady_tokens),
            "unlimited_hit_rate": self.rate(self.unlimited_tokens),
            "ttft_bound_ms": msgspec.to_builtins(self.ttft),
        }


class _Prompt(msgspec.Struct, frozen=True):
    end: int
    tokens: int
    after: array[int]
    """Keys of the blocks behind ``end`` that are full once the answer is there."""


class Visit(msgspec.Struct, frozen=True):
    """A prompt reaches the fleet at ``at``, seconds; ``counted`` is false for a warm-up."""

    id: str
    at: float
    counted: bool = True


class Oracle:
    """Remembers prompts as they come, and judges them in any order.

    Args:
        block: tokens per block. With the engines' own block size the bounds hold to the token; larger blocks need
            less time and memory and miss up to ``block - 1`` tokens of each prompt's hit.

    Memory: 8 bytes for each block that differs from all others, and for each block of each answer; the prompts
    themselves are not kept.
    """

    def __init__(self, block: int = BLOCK) -> None:
        self.block = block
        self._tree = PrefixTree()
        self._prompts: dict[str, _Prompt] = {}

    def add(self, request: LabRequest) -> None:
        """Remember a prompt; one of the same id is replaced."""
        tokens, block = request.tokens, self.block
        seed = chain_seed(request.adapter or "", request.salt)
        # The last token is always computed: an engine needs it to go on from.
        keys = token_block_key_array(tokens[:-1], block, seed)
        answer = answer_ids(answer_offset(tokens), 0, request.max_tokens - 1)
        after = token_block_key_array(tokens[len(keys) * block :] + answer, block, keys[-1] if keys else seed)
        self._prompts[request.id] = _Prompt(self._tree.insert(keys), len(tokens), after)

    def judge(self, visits: Sequence[Visit], capacity_tokens: int, fleet: FleetOptions | None = None) -> Achievable:
        """The best possible for prompts in this order.

        Args:
            visits: prompts that were added, in order of arrival.
            capacity_tokens: of the fleet's caches together.
            fleet: to bound the time to first token as well.
        """
        prompts = [self._prompts[visit.id] for visit in visits]
        steps = [Step(prompt.end, self._tree.reach(prompt.end, prompt.after)) for prompt in prompts]
        blocks = capacity_tokens // self.block
        unlimited = unlimited_hits(self._tree, steps)
        counted = [visit.counted for visit in visits]

        def tokens(hits: Sequence[int]) -> int:
            return self.block * sum(hit for hit, counts in zip(hits, counted, strict=True) if counts)

        jobs = [
            PrefillJob(visit.at, prompt.tokens - hit * self.block, hit * self.block)
            for visit, prompt, hit in zip(visits, prompts, unlimited, strict=True)
            if visit.counted
        ]
        return Achievable(
            requests=len(jobs),
            prompt_tokens=sum(job.new + job.cached for job in jobs),
            capacity_tokens=capacity_tokens,
            lru_tokens=tokens(lru_hits(self._tree, steps, blocks)),
            belady_tokens=tokens(belady_hits(self._tree, steps, blocks)),
            unlimited_tokens=tokens(unlimited),
            ttft=ttft_bound(jobs, fleet) if fleet else None,
        )


def achievable(
    requests: Iterable[LabRequest], capacity_tokens: int, block: int = BLOCK, fleet: FleetOptions | None = None
) -> Achievable:
    """The best possible for requests in order of arrival.

    Args:
        requests: read once; their prompts are not kept.
        capacity_tokens: of the fleet's caches together (``profile.kv_tokens * pods``).
        block: tokens per block, see :class:`Oracle`.
        fleet: to bound the time to first token as well.
    """
    oracle = Oracle(block)
    visits = []
    for request in requests:
        oracle.add(request)
        visits.append(Visit(request.id, request.arrival, not request.warm_up))
    return oracle.judge(visits, capacity_tokens, fleet)


class Watched:
    """A workload whose prompts an oracle gets to see as a run asks for them, follow-ups included.

    Args:
        workload: the workload.
        oracle: to be told.
    """

    def __init__(self, workload: Workload, oracle: Oracle) -> None:
        self.name = workload.name
        self._workload, self._oracle = workload, oracle

    def requests(self) -> Iterator[LabRequest]:
        """Those of the workload."""
        for request in self._workload.requests():
            self._oracle.add(request)
            yield request

    def follow(self, done: LabRequest, now: float) -> LabRequest | None:
        """As the workload."""
        following = self._workload.follow(done, now)
        if following is not None:
            self._oracle.add(following)
        return following


def achievable_of_run(oracle: Oracle, rows: Iterable[Row], fleet: FleetOptions) -> Achievable:
    """The best possible for the requests that a run answered, in the order in which they came there.

    So a closed loop is judged by the questions that this policy's answers led to, and what was refused or lost counts
    neither way.

    Args:
        oracle: that watched the run's workload.
        rows: of the run, in order of arrival.
        fleet: of the run; its caches' second tiers count.
    """
    visits = [Visit(row.id, row.arrival, not row.warm_up) for row in rows if row.ok]
    return oracle.judge(visits, fleet_capacity(fleet), fleet)


def fleet_capacity(fleet: FleetOptions) -> int:
    """KV tokens of all pods together, those that a fault adds included."""
    added = sum(fault.kind == "add" for fault in fleet.faults)
    profile = fleet.profile
    return (fleet.pods + added) * (profile.kv_tokens + profile.cpu_kv_tokens)

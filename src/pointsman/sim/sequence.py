"""One request inside a simulated engine."""

from __future__ import annotations

from array import array
from enum import Enum

import msgspec

from pointsman.sim.kv import Hold, Origin, block_keys
from pointsman.sim.tokens import answer_ids, answer_offset


class SimRequest(msgspec.Struct, frozen=True):
    """What an engine is asked for. It always generates ``max_tokens`` tokens."""

    id: str
    tokens: array[int]
    """Prompt, unsigned 32-bit token ids; at least one."""
    max_tokens: int
    adapter: str | None = None
    salt: str = ""
    interval: int = 1
    """Report the first token, then every so many; 0: report only the end. The end is always reported."""
    received: int = 0
    """Prompt tokens whose keys and values another engine has computed and sent (prefill and decode apart)."""


class State(Enum):
    """Where a sequence is."""

    WAITING = 0
    PREFILL = 1
    DECODE = 2
    GONE = 3


class Sequence:
    """A request's progress. Ticks are the engine's step numbers; -1 means not planned.

    While it decodes, nothing here changes from step to step: every decoding sequence gets one token a step, so its
    output count is the tick less ``base``.
    """

    __slots__ = (
        "answer",
        "arrival",
        "base",
        "blocks",
        "cached",
        "computed",
        "finish_tick",
        "first_token",
        "grow_tick",
        "hold",
        "keys",
        "last_token",
        "origin",
        "outputs",
        "preemptions",
        "prompt",
        "registered",
        "report_tick",
        "request",
        "root",
        "scheduled",
        "sent",
        "state",
        "step_tokens",
        "target",
    )

    def __init__(self, request: SimRequest, arrival: float, root: int, block_size: int) -> None:
        self.request = request
        self.arrival = arrival
        self.root = root
        self.keys = block_keys(request.tokens, root, block_size)
        self.prompt = len(request.tokens)
        self.answer = answer_offset(request.tokens)
        self.origin = Origin(lambda i, j: self.ids(i * block_size, j * block_size), request.adapter, request.salt)
        self.hold = Hold()
        self.state = State.WAITING
        self.blocks = 0  # blocks held
        self.registered = 0  # full blocks handed to the cache (or found there)
        self.computed = 0  # tokens in the KV cache; maintained while prefilling
        self.target = self.prompt  # tokens to prefill: the prompt, and after a preemption the answer so far
        self.outputs = 0  # output tokens; maintained outside of decoding
        self.base = 0
        self.step_tokens = 0  # prompt tokens of the current step
        self.sent = 0  # output tokens reported
        self.cached: int | None = None  # prompt tokens found in the cache at the first admission
        self.preemptions = 0
        self.scheduled = -1.0
        self.first_token = -1.0
        self.last_token = -1.0
        self.finish_tick = self.grow_tick = self.report_tick = -1

    def ids(self, start: int, stop: int) -> array[int]:
        """Token ids of prompt and answer, from ``start`` to ``stop``."""
        prompt = self.prompt
        if stop <= prompt:
            return self.request.tokens[start:stop]
        answer = answer_ids(self.answer, max(0, start - prompt), stop - prompt)
        return self.request.tokens[start:] + answer if start < prompt else answer

    def keys_from(self, first: int, blocks: int, block_size: int) -> list[int]:
        """Keys of blocks ``first`` to ``blocks``; those of generated tokens are made when first asked for."""
        known = len(self.keys)
        if known < blocks:
            tokens = self.ids(known * block_size, blocks * block_size)
            self.keys += block_keys(tokens, self.keys[-1] if known else self.root, block_size)
        return self.keys[first:blocks]

"""The workloads there are, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Protocol

import msgspec

from pointsman.errors import ConfigError
from pointsman.lab.requests import Workload
from pointsman.lab.workloads.brief import Brief
from pointsman.lab.workloads.conversations import AGENTIC, CHAT, Conversations
from pointsman.lab.workloads.open_loop import BestOfN, Bursty, LongMix, LoraTenants


class Maker(Protocol):
    """Makes one."""

    def __call__(self, *, qps: float | None, seed: int, scale: float) -> Workload: ...


class Named(msgspec.Struct, frozen=True):
    """A workload's maker and what it is, for tables."""

    make: Maker
    about: str


WORKLOADS: Mapping[str, Named] = MappingProxyType(
    {
        "brief": Named(Brief, "150 system prompts of 6,000 tokens, 5 questions to each; without --qps a ladder to 60"),
        "chat": Named(partial(Conversations, CHAT), "people in conversations of about 5 turns, 8 system prompts"),
        "agentic": Named(partial(Conversations, AGENTIC), "coding agents: long sessions, tools, thinking for minutes"),
        "best-of-n": Named(BestOfN, "every prompt 8 times at the same moment"),
        "long-mix": Named(LongMix, "short questions, one in twenty a document of 16,000 to 36,000 tokens"),
        "lora": Named(LoraTenants, "16 tenants with an adapter each, a few of them busy"),
        "bursty": Named(Bursty, "50 applications, arrivals in bursts (gamma, CV 4)"),
    }
)


def make_workload(name: str, *, qps: float | None = None, seed: int = 0, scale: float = 1.0) -> Workload:
    """A workload by name.

    Args:
        name: one of ``WORKLOADS``.
        qps: requests per second; None: the workload's own.
        seed: another gives other prompts, lengths and times.
        scale: factor on how long it goes on.

    Raises:
        ConfigError: if there is none of that name, or a number is not above 0.
    """
    found = WORKLOADS.get(name)
    if found is None:
        hint = f"one of {', '.join(WORKLOADS)}"
        raise ConfigError(f"no workload named {name!r}", field="workload", hint=hint)
    for field, value in (("qps", qps), ("scale", scale)):
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"must be above 0, got {value}", field=field)
    return found.make(qps=qps, seed=seed, scale=scale)

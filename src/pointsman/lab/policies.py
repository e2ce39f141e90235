"""Policies by name: our own, the baselines, and other routers' as profiles of our framework.

A policy is a configuration file. What the lab runs, a live picker runs: ``pointsman epp --config`` takes what
:func:`policy_source` answers, a preset's name or the path of a file of this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

import msgspec

from pointsman.errors import ConfigError
from pointsman.framework.loader import preset_names
from pointsman.lab.options import FleetOptions

_RIVALS = Path(__file__).parent / "rivals"
PRESET_PREFIX = "preset:"

DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "round-robin": "each in turn",
        "random": "any",
        "least-request": "fewest requests in flight",
        "power-of-two": "two at random, of them the one with fewer requests in flight",
        "chwbl": "consistent hash with bounded load on the prompt's beginning (KubeAI PrefixHash)",
        "llm-d": "llm-d's default: prefix 3, queue 2, KV utilisation 2",
        "llm-d-guide": "llm-d's guide: prefix 3, queue 2, KV utilisation 2, no-hit LRU 2",
        "llm-d-sticky": "llm-d's sticky until saturated",
        "sglang": "SGLang router's cache_aware: 0.3 / 64 / 1.5",
        "dynamo": "Dynamo's KV router, defaults",
        "dynamo-tuned": "Dynamo's KV router, prefill load scale 4",
        "lmetric": "product of prefill and decode blocks",
        "preble": "Preble's E2: exploit above half a prompt, else least work of three minutes",
        "session-pin": "each session stays where it began, else fewest requests in flight",
        "brief": "weighted scores of the engineering guide, one of the best three",
        "default": "ours: expected milliseconds, prefixes guessed from own picks",
        "precise": "ours: expected milliseconds, prefixes by the engines' KV-cache events",
    }
)
"""One line on each policy, in the order of lists."""

_PRESETS = {"round-robin", "random", "least-request", "brief", "default", "precise"}

POLICIES: Mapping[str, str] = MappingProxyType(
    {name: name if name in _PRESETS else str(_RIVALS / f"{name}.yaml") for name in DESCRIPTIONS}
)
"""By name, what :func:`pointsman.lab.runner.simulate` takes: a preset's name or the path of a packaged file."""

SCRAPE_PERIODS: Mapping[str, float] = MappingProxyType({"llm-d": 0.05, "llm-d-guide": 0.05, "llm-d-sticky": 0.05})
"""Seconds between two readings of a pod's gauges, where a router's documentation says so: llm-d's default of
``--refresh-metrics-interval``. Of the rivals only ``llm-d`` and ``llm-d-guide`` look at gauges at all."""


def policy_source(name_or_path: str) -> str:
    """What stands behind ``--policy``: a name of :data:`POLICIES`, ``preset:NAME``, or a file.

    Returns:
        A preset's name or a path, as ``simulate`` and ``pointsman epp --config`` take it.

    Raises:
        ConfigError: if it is none of them; names the policies.
    """
    if name_or_path in POLICIES:
        return POLICIES[name_or_path]
    preset = name_or_path.removeprefix(PRESET_PREFIX)
    if preset != name_or_path and preset in preset_names():
        return preset
    if Path(name_or_path).is_file():
        return name_or_path
    near = get_close_matches(name_or_path, POLICIES, n=1)
    hint = f"policies: {', '.join(POLICIES)}; or a YAML file"
    raise ConfigError(
        "no such policy or file",
        source=name_or_path,
        field="policy",
        hint=f"did you mean {near[0]!r}? {hint}" if near else hint,
    )


def with_documented_scraping(name: str, options: FleetOptions) -> FleetOptions:
    """The same fleet with gauges read as often as the policy's own router reads them, where that is documented."""
    period = SCRAPE_PERIODS.get(name)
    return options if period is None else msgspec.structs.replace(options, scrape_period=period)

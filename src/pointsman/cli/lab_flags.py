"""The flags that the lab's commands share: what is asked, of which fleet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Group, Parameter

from pointsman.errors import ConfigError
from pointsman.lab.compare_specs import NamedWorkload, TraceWorkload
from pointsman.lab.options import FleetOptions
from pointsman.lab.policies import with_documented_scraping
from pointsman.lab.traces.formats import NAMES
from pointsman.lab.traces.options import Loop
from pointsman.lab.workloads import WORKLOADS
from pointsman.sim.profiles import DEFAULT_PROFILE, PROFILES, find_profile

_ASKED = Group("What is asked", sort_key=10)
_FLEET = Group("The fleet", sort_key=20)
DEFAULT_LORAS = 4
"""Adapters that fit on a simulated pod when the workload has adapters and nothing else is said."""


_SAMPLE, _TRACE_SAMPLE = 1.0, 5.0
"""Simulated seconds between two samples of the pods' load: made-up workloads last a minute, traces an hour."""


@Parameter(name="*", group=_ASKED)
@dataclass(frozen=True)
class WorkloadFlags:
    """A made-up workload, or a recorded one."""

    workload: Annotated[str, Parameter(help=f"{', '.join(WORKLOADS)}; not used with --trace.")] = "brief"
    trace: Annotated[Path | None, Parameter(help="A recorded workload instead (plain or .gz).")] = None
    format: Annotated[str, Parameter(help=f"Its format: {', '.join(NAMES)}; auto: guess.")] = "auto"
    speed: Annotated[float, Parameter(help="Play the trace so many times as fast.")] = 1.0
    slice: Annotated[str, Parameter(help="Only FROM:TO of the trace, in its seconds, such as 600:1200.")] = ""
    scale_users: Annotated[int, Parameter(help="So many copies of the trace at once, with prompts of their own.")] = 1
    limit: Annotated[int | None, Parameter(help="Only the first so many requests of the trace.")] = None
    loop: Annotated[
        Loop, Parameter(help="closed: a question waits for the answer before it; auto: where the trace has sessions.")
    ] = "auto"
    sort: Annotated[
        bool, Parameter(help="Sort the trace in memory first, if its times are out of order.", negative=())
    ] = False
    scale: Annotated[
        float | None, Parameter(help="Length of the made-up workload, 1: in full; by default 0.2 for a ladder.")
    ] = None
    seed: Annotated[int, Parameter(help="Of prompts, order, arrival times and random picks.")] = 1

    def source(self, qps: float | None, seed: int, scale: float = 1.0) -> NamedWorkload | TraceWorkload:
        """The workload at a load.

        Args:
            qps: requests per second; None: as the workload is.
            seed: of the workload.
            scale: unless --scale says otherwise.

        Raises:
            ConfigError: if flags do not go together or make no sense.
        """
        if self.trace is None:
            self._check_no_trace_flags()
            length = scale if self.scale is None else self.scale
            _check(length > 0, "--scale", "must be above 0")
            _check(qps is None or qps > 0, "--qps", "must be above 0")
            return NamedWorkload(name=self.workload, qps=qps, seed=seed, scale=length)
        if qps is not None:
            raise ConfigError("a trace has its own load", field="--qps", hint="change it with --speed")
        _check(self.speed > 0, "--speed", "must be above 0")
        _check(self.scale_users >= 1, "--scale-users", "must be at least 1")
        _check(self.limit is None or self.limit >= 1, "--limit", "must be at least 1")
        return TraceWorkload(
            path=self.trace,
            format=self.format,
            speed=self.speed,
            slice=_slice(self.slice),
            scale_users=self.scale_users,
            seed=seed,
            limit=self.limit,
            loop=self.loop,
            sort=self.sort,
        )

    def _check_no_trace_flags(self) -> None:
        names = ("format", "speed", "slice", "scale_users", "limit", "loop", "sort")
        plain = WorkloadFlags()
        given = [name for name in names if getattr(self, name) != getattr(plain, name)]
        if given:
            flag = "--" + given[0].replace("_", "-")
            raise ConfigError(f"{flag} is about a trace", field="--trace", hint="name the file with --trace")


@Parameter(name="*", group=_FLEET)
@dataclass(frozen=True)
class FleetFlags:
    """The simulated pods, and what the picker hears of them."""

    pods: Annotated[int, Parameter(help="Simulated pods.")] = 8
    profile: Annotated[
        str, Parameter(help=f"Engine: {', '.join(PROFILES)}, or a file of `pointsman calibrate`.")
    ] = DEFAULT_PROFILE  # fmt: skip
    kv_tokens: Annotated[int | None, Parameter(help="KV cache of a pod, tokens; by default the profile's.")] = None
    max_model_len: Annotated[
        int | None,
        Parameter(
            help="Longest prompt and answer, tokens; by default the profile's, for a trace what the cache holds."
        ),
    ] = None
    max_loras: Annotated[
        int | None, Parameter(help=f"Adapters on a pod at once; by default {DEFAULT_LORAS} with --workload lora.")
    ] = None
    scrape_period: Annotated[
        float | None,
        Parameter(
            help="Seconds between two readings of a pod's metrics; by default 0.2, or as a policy's router has it."
        ),
    ] = None
    event_lag: Annotated[float, Parameter(help="Seconds until the picker knows of a KV-cache event.")] = 0.005

    def options(self, policy: str, asked: WorkloadFlags, seed: int) -> FleetOptions:
        """The fleet for a policy and a workload.

        Raises:
            ConfigError: if a flag makes no sense, or there is no such profile.
        """
        _check(self.pods >= 1, "--pods", "must be at least 1")
        _check(self.scrape_period is None or self.scrape_period > 0, "--scrape-period", "must be above 0")
        _check(self.event_lag >= 0, "--event-lag", "must not be below 0")
        profile = find_profile(self.profile, kv_tokens=self.kv_tokens)
        longest = self.max_model_len or (profile.kv_tokens if asked.trace is not None else profile.max_model_len)
        _check(longest >= 1, "--max-model-len", "must be at least 1")
        loras = self.max_loras
        if loras is None:
            loras = DEFAULT_LORAS if asked.trace is None and asked.workload == "lora" else 0
        options = FleetOptions(
            pods=self.pods,
            profile=msgspec.structs.replace(profile, max_model_len=longest),
            event_lag=self.event_lag,
            max_loras=loras,
            seed=seed,
            sample=_SAMPLE if asked.trace is None else _TRACE_SAMPLE,
        )
        if self.scrape_period is None:
            return with_documented_scraping(policy, options)
        return msgspec.structs.replace(options, scrape_period=self.scrape_period)


def numbers(text: str, flag: str) -> list[float]:
    """Numbers above 0 that stand between commas.

    Raises:
        ConfigError: if there are none, or something else is among them.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{text!r} is no list of numbers", field=flag, hint="such as 3,10,20") from None
    _check(all(0 < number < float("inf") for number in found), flag, "needs numbers above 0")
    return found


def _slice(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        start, stop = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError(f"{text!r} is not FROM:TO", field="--slice", hint="in seconds, such as 600:1200") from None
    _check(0 <= start < stop, "--slice", "must go forward, from 0 at the earliest")
    return start, stop


def _check(good: bool, flag: str, words: str) -> None:
    if not good:
        raise ConfigError(words, field=flag)

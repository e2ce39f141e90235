"""Fits an engine profile to a real engine: from a short probe run, or from two of its metrics pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from pointsman.lab.calibrate_client import ProbeClient
from pointsman.lab.calibrate_fit import Fit, fit
from pointsman.lab.calibrate_metrics import Scales, limits, scaled, scales
from pointsman.lab.calibrate_probe import ProbeOptions, probe
from pointsman.latency.model import LatencyModel
from pointsman.latency.profiles import EngineCoefficients
from pointsman.sim.profiles import EngineProfile


class Calibration(msgspec.Struct, frozen=True):
    """What came of it: the profile, and how it was found (one of the two is there)."""

    profile: EngineProfile
    fit: Fit | None = None
    scales: Scales | None = None

    def latency_model(self) -> LatencyModel:
        """The coefficients as the picker's cost plugins take them."""
        return latency_model(self.profile)


def latency_model(profile: EngineProfile) -> LatencyModel:
    """The picker's cost model of an engine profile."""
    return msgspec.convert(profile, EngineCoefficients, from_attributes=True).latency_model()


def profile_of(found: Fit, base: EngineProfile, *, name: str, model: str) -> EngineProfile:
    """The base profile's limits with the fitted coefficients."""
    return msgspec.structs.replace(
        base,
        name=name,
        model=model,
        prefill_fixed=found.prefill_fixed,
        prefill_per_token=found.prefill_per_token,
        prefill_quadratic=found.prefill_quadratic,
        prefill_cached=found.prefill_cached,
        decode_base=found.decode_base,
        decode_per_request=found.decode_per_request,
        decode_per_context_token=found.decode_per_context_token,
        interference=found.interference,
        step_floor=min(found.prefill_fixed, found.decode_base),
    )


async def by_probe(
    url: str,
    base: EngineProfile,
    *,
    model: str = "",
    options: ProbeOptions | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Calibration:
    """Send a short load to an engine that nobody else uses, and fit all coefficients.

    Raises:
        CalibrationError: if it cannot be measured.
    """
    async with ProbeClient(url, model, seed=seed) as client:
        samples = await probe(client, options or ProbeOptions(), progress)
        page = await client.page()
        found = fit(samples.prefill, samples.decode, samples.interference, usual_interference=base.interference)
        profile = profile_of(found, base, name="calibrated", model=client.model)
        return Calibration(limits(page, profile, client.max_length), fit=found)


async def by_watching(url: str, base: EngineProfile, seconds: float, *, model: str = "") -> Calibration:
    """Read an engine's metrics page twice while it serves, and scale the base profile.

    Raises:
        CalibrationError: if it cannot be reached, or too little happened.
    """
    async with ProbeClient(url, model) as client:
        before = await client.page()
        await asyncio.sleep(seconds)
        after = await client.page()
        base = limits(after, msgspec.structs.replace(base, model=client.model), client.max_length)
    return by_pages(before, after, base)


def by_pages(before: str, after: str, base: EngineProfile) -> Calibration:
    """Scale the base profile to two metrics pages of one engine, the older first.

    Raises:
        CalibrationError: as :func:`pointsman.lab.calibrate_metrics.scales`.
    """
    base = limits(after, base)
    found = scales(before, after, base)
    return Calibration(scaled(base, found), scales=found)

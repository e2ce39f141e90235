"""How a simulated fleet is made and what happens to it."""

from __future__ import annotations

from typing import Literal

import msgspec

from pointsman.sim.profiles import DEFAULT_PROFILE, EngineProfile, find_profile

FaultKind = Literal["kill", "add", "slow", "freeze-metrics", "freeze-events"]


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Something happens to the fleet.

    ``kill``: the pod dies with all it has in hand; known to the picker ``detect`` seconds later. ``add``: a new pod is
    asked for, and ready ``ready`` seconds later (image, weights, compilation). ``slow``: the pod's steps take
    ``factor`` times as long from then on. ``freeze-metrics`` and ``freeze-events``: the picker hears nothing of the
    pod (of all when ``pod`` is None) for ``seconds``.
    """

    at: float
    kind: FaultKind
    pod: int | None = None
    factor: float = 1.0
    seconds: float = 30.0
    detect: float = 1.0
    ready: float = 0.0


class FleetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet as the lab makes it. Times in seconds of simulated time.

    Attributes:
        pods: engines at the start.
        profile: of every engine.
        speeds: factor on the step time of each pod, 1 for those not named; 2 is half as fast.
        scrape_period: between two readings of one pod's metrics.
        scrape_delay: from the reading of an engine's gauges to the picker knowing them.
        event_lag: from the end of a step to the picker knowing its KV-cache events.
        event_loss: share of event batches that never arrive, 0 to 1.
        events: whether engines publish KV-cache events at all.
        network: from the pick to the engine, and from the engine to the picker.
        max_loras: adapters on the device at once.
        observe_share: share of answers whose body is seen; None: as the policy's configuration says.
        seed: of everything random but the workload.
        faults: what happens when.
        sample: seconds between two samples of every pod's load; 0 for none.
    """

    pods: int = 8
    profile: EngineProfile = msgspec.field(default_factory=lambda: find_profile(DEFAULT_PROFILE))
    speeds: tuple[float, ...] = ()
    scrape_period: float = 0.2
    scrape_delay: float = 0.005
    event_lag: float = 0.005
    event_loss: float = 0.0
    events: bool = True
    network: float = 0.0005
    max_loras: int = 0
    observe_share: float | None = None
    seed: int = 1
    faults: tuple[Fault, ...] = ()
    sample: float = 5.0

    def speed(self, pod: int) -> float:
        """Factor on the step time of a pod."""
        return self.speeds[pod] if pod < len(self.speeds) else 1.0

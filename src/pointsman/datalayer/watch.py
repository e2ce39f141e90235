"""What the scraper keeps of one endpoint."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Any

from pointsman.api.endpoint import Endpoint
from pointsman.datalayer.pod_reader import PodReader, Read
from pointsman.datalayer.probing import HealthRule, Models
from pointsman.datalayer.sleeper import Sleeper


class Watch:
    """One endpoint under watch.

    Args:
        endpoint: which one.
        rule: judges its health.
        period: seconds until its second reading.
    """

    def __init__(self, endpoint: Endpoint, rule: HealthRule, period: float) -> None:
        self.id, self.hostport = endpoint.id, endpoint.hostport
        self.rule = rule
        self.reader: PodReader | None = None
        self.models = Models()
        self.probe, self.look = Sleeper(), Sleeper()
        self.tasks: tuple[asyncio.Task[None], ...] = ()
        self.wish = self.period = period
        """Seconds until the next reading, before and after stretching."""
        self.gauges: tuple[int, int, float] | None = None
        self.quiet = False
        """Nothing was going on at the last reading."""
        self.failures = 0
        """Readings in a row without any answer."""
        self.lost_at = -math.inf
        """When a lost connection last led to a reading, seconds of the event loop."""
        self.last: Read | None = None
        self.kinds: Counter[str] = Counter()
        """Readings by how they went; one key for each kind there is, whatever a server does."""

    def view(self) -> dict[str, Any]:
        """How it is read, for people."""
        return {
            "period_s": round(self.period, 3),
            "last": self.last.why if self.last else "not yet",
            "failures": self.failures,
            "outcomes": dict(self.kinds),
        }

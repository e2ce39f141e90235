"""What the layers below the rim report, as one interface; ``observability.metrics`` implements it.

Tests count with it too.
"""

from __future__ import annotations

from pointsman.api.record import DecisionRecord
from pointsman.api.result import RequestOutcome


class Observer:
    """Does nothing; override what is wanted. Every method must be cheap and must not raise."""

    def plugin_failed(self, plugin: str, point: str, error: Exception) -> None:
        """A plugin raised or broke its contract at an extension point; its say was left out."""

    def plugin_timed(self, plugin: str, point: str, seconds: float) -> None:
        """One call of a plugin, in real seconds."""

    def decided(self, record: DecisionRecord) -> None:
        """A request was given an endpoint."""

    def shadowed(self, result: str, record: DecisionRecord) -> None:
        """A shadow looked at a decision: ``same``, ``differs`` (see ``record.shadow``), ``skipped`` or ``failed``."""

    def refused(self, reason: str) -> None:
        """A request was refused; ``reason`` is the error's slug."""

    def fell_back(self, reason: str) -> None:
        """A decision was made without the profile's pick; ``filters-drained`` is a scale-out signal."""

    def degraded(self, kind: str) -> None:
        """A decision was made with less knowledge than configured."""

    def ended(self, outcome: RequestOutcome, record: DecisionRecord) -> None:
        """A request ended."""

    def scraped(self, endpoint: str, ok: bool) -> None:
        """One reading of an endpoint's metrics."""

    def scrape_took(self, kind: str, seconds: float, size: int) -> None:
        """The same reading in numbers: how it ended (one of a few words), real seconds, bytes of the answer."""

    def gauges_asked(self, result: str) -> None:
        """One round of questions to Prometheus: ``ok``, ``partial``, ``late``, ``failed`` or ``empty``."""

    def gauges_fed(self, fed: int, left: int) -> None:
        """How many endpoints Prometheus has young gauges of, and how many are left to direct reading."""

    def discovered(self, source: str, result: str) -> None:
        """One look at a source of endpoints: ``ok``, ``empty`` or ``failed``."""

    def endpoints(self, known: int, healthy: int) -> None:
        """How many endpoints there are."""

    def endpoint_removed(self, endpoint: str) -> None:
        """An endpoint is gone for good."""

    def config_loaded(self, ok: bool) -> None:
        """A configuration was put in force (True) or refused and the old one kept (False)."""

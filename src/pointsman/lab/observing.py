"""Counts what the layers below report during a run."""

from __future__ import annotations

from collections import Counter

from pointsman.framework.observer import Observer


class LabObserver(Observer):
    """Degradations and failures, by kind."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def degraded(self, kind: str) -> None:
        self.kinds[kind] += 1

    def fell_back(self, reason: str) -> None:
        self.kinds[f"fallback: {reason}"] += 1

    def refused(self, reason: str) -> None:
        self.kinds[f"refused: {reason}"] += 1

    def plugin_failed(self, plugin: str, point: str, error: Exception) -> None:
        self.failures[f"{plugin} ({point}): {type(error).__name__}: {error}"[:200]] += 1

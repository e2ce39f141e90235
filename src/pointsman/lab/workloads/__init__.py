"""Workloads by name: what LLM fleets are asked, in the shapes that matter to a scheduler."""

from __future__ import annotations

from pointsman.lab.workloads.catalog import WORKLOADS, make_workload

__all__ = ["WORKLOADS", "make_workload"]

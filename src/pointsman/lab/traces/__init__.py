"""Recorded workloads of others, read as workloads of the lab."""

from __future__ import annotations

from pointsman.lab.traces.formats import FORMATS, NAMES
from pointsman.lab.traces.opening import detect_format, open_trace, read_rows

__all__ = ["FORMATS", "NAMES", "detect_format", "open_trace", "read_rows"]

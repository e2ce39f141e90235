"""Records for replay: what ``--records`` asks for, and the sink that does it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec

from pointsman.clock import Clock
from pointsman.errors import ConfigError
from pointsman.framework.plan import Plan
from pointsman.observability.metrics import Metrics
from pointsman.observability.record_files import RecordFiles, records_path
from pointsman.observability.record_sink import RecordSink
from pointsman.observability.redaction import without_passwords

MEGABYTE = 1_000_000
UNSAID = ("prometheus", "pluginPaths")
"""Parts of a configuration that stay out of records: addresses and paths of this machine."""


class RecordOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where records go, how many and how much of them."""

    path: Path
    sample: float = 1.0
    max_mb: float = 512.0

    def flags(self) -> list[str]:
        """The same as flags of ``pointsman epp``."""
        return ["--records", str(self.path), "--records-sample", str(self.sample), "--records-max-mb", str(self.max_mb)]


def record_options(path: Path | None, sample: float, max_mb: float) -> RecordOptions | None:
    """What the flags ask for; None for nothing.

    Raises:
        ConfigError: if a number makes no sense.
    """
    if path is None:
        return None
    if not 0 < sample <= 1:
        raise ConfigError(f"--records-sample: {sample:g} is no share", hint="above 0, at most 1")
    if not max_mb >= 1:
        raise ConfigError(f"--records-max-mb: {max_mb:g} is too small", hint="at least 1")
    return RecordOptions(path=path, sample=sample, max_mb=max_mb)


def start_recording(options: RecordOptions, clock: Clock, metrics: Metrics, plan: Plan) -> RecordSink:
    """Open the files, and have every request that ends recorded.

    Raises:
        ConfigError: if the files cannot be written.
    """
    path, size = records_path(options.path), int(options.max_mb * MEGABYTE)
    sink = RecordSink(partial(RecordFiles, path, size), clock, sample=options.sample, count=metrics.records_kept)
    tell_policy(sink, plan)
    sink.start()
    metrics.sink = sink.add
    return sink


def tell_policy(sink: RecordSink, plan: Plan) -> None:
    """Say by which configuration the next requests are decided."""
    effective = without_passwords(plan.effective())
    sink.use(plan.source, {name: value for name, value in effective.items() if name not in UNSAID})

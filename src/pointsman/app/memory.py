"""The garbage collector, kept off the event loop's back."""

from __future__ import annotations

import gc


def settle() -> None:
    """Call once when everything is built: what lives now lives as long as the process and is not visited again.

    The thresholds make full collections rare: requests leave hardly any cycles, and one full collection with ten
    thousand remembered decisions used to be the 99th percentile of a pick.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)

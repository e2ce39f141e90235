"""SGLang's own account of its load: ``GET /v1/loads``, some hundred bytes instead of a page of metrics. Pure.

The schedulers write it to shared memory as they go, so that asking disturbs nobody, and no flag is needed. There is
nothing that SGLang pushes: a router asks. ``/get_load`` is the older form with fewer fields and is not used.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

PATH = "/v1/loads"

_Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


class _Rank(msgspec.Struct):
    num_running_reqs: _Count
    num_waiting_reqs: _Count
    token_usage: float = 0.0
    max_total_num_tokens: _Count = 0
    max_running_requests: _Count = 0


class _Loads(msgspec.Struct):
    loads: list[_Rank]


class Loads(msgspec.Struct, frozen=True):
    """Of all data-parallel ranks together: sums, and the mean of the KV usage (0 to 1)."""

    waiting: int
    running: int
    kv_usage: float
    max_num_seqs: int | None
    ranks: int


_decoder = msgspec.json.Decoder(_Loads)


def parse_loads(body: bytes) -> Loads | None:
    """Read the answer. None when it says nothing of use.

    An empty list means that the shared memory could not be opened, a capacity of 0 that no batch has run yet: in
    neither case are the zeros an idle engine's.
    """
    try:
        ranks = _decoder.decode(body).loads
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if not ranks or not all(rank.max_total_num_tokens for rank in ranks):
        return None
    usage = sum(min(1.0, max(0.0, rank.token_usage)) for rank in ranks) / len(ranks)
    return Loads(
        waiting=sum(rank.num_waiting_reqs for rank in ranks),
        running=sum(rank.num_running_reqs for rank in ranks),
        kv_usage=usage,
        max_num_seqs=sum(rank.max_running_requests for rank in ranks) or None,
        ranks=len(ranks),
    )

"""Preble's E2 (exploitation and exploration), arXiv 2407.00023, as its published scheduler does it.

If more of the prompt is cached somewhere than is not, the endpoints that hold most of it are candidates (exploit),
else all are (explore). Of several the least cost wins, equals by slot:

    cost = sum of prefill ms of what was sent there within the last ``windowSeconds``, without what was cached
         + requests in flight there * mean output tokens * ms per output token
         + prefill ms of what of this prompt is not cached there

Output tokens and their milliseconds are the mean and the median of the last 200 answers, at first the published
constants (45 tokens, 150 ms); so every answer has to be looked at (``observeShare: 1``). Prefill milliseconds are the
configured latency model's; the published ones are of one model on one GPU.

Left out, as switched off in the published code: the cost of what would be evicted, and the moving of prefixes from
heavy endpoints to light ones. Its cache is a tree of the prompts sent, within each GPU's memory: here the approximate
producer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import fmean, median
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint, EndpointId
from pointsman.api.request import InferenceRequest
from pointsman.api.result import RequestOutcome, SchedulingResult, ScoredEndpoint
from pointsman.framework.keys import APPROX_PREFIX_PRODUCER, PrefixMatch, prefix_match_key
from pointsman.framework.plugin import (
    EndpointObserver,
    OutcomeObserver,
    Params,
    Picker,
    PickObserver,
    PluginSpec,
    register,
)
from pointsman.framework.state import CycleState, StateKey
from pointsman.plugins.pickers._order import chosen_first
from pointsman.plugins.scorers._prefix import ProducerName, cached_tokens, prefix_match, required_producers

LAST = 200
FIRST_OUTPUT_TOKENS = 45.0
FIRST_TPOT_MS = 150.0


class PrebleParams(Params, frozen=True):
    """Parameters of ``preble-e2-picker``."""

    window_seconds: Annotated[float, Meta(gt=0, description="How long a prefill counts as load.")] = 180.0
    prefix_match_info_producer_name: ProducerName = APPROX_PREFIX_PRODUCER


class _Window:
    """Prefill milliseconds sent to one endpoint of late."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def add(self, now: float, ms: float) -> None:
        self._sent.append((now, ms))
        self._sum += ms

    def total(self, since: float) -> float:
        while self._sent and self._sent[0][0] < since:
            self._sum -= self._sent.popleft()[1]
        return max(0.0, self._sum) if self._sent else 0.0


@register("preble-e2-picker")
class PrebleE2(Picker[PrebleParams], PickObserver, OutcomeObserver, EndpointObserver):
    """Load is work of the last minutes, most of it long done: it balances in the long run, not within a burst."""

    formula = "cached > uncached somewhere: the best matches, else all; of them the least window load + own prefill ms"
    inputs = "prefix match, own picks of the window, ledger, observed output lengths and times, latency model"

    def setup(self) -> None:
        self._windows: dict[EndpointId, _Window] = {}
        self._output: deque[int] = deque(maxlen=LAST)
        self._tpot: deque[float] = deque(maxlen=LAST)

    def requires(self) -> tuple[PluginSpec, ...]:
        return required_producers(self.params.prefix_match_info_producer_name)

    def consumes(self) -> tuple[StateKey[PrefixMatch], ...]:
        return (prefix_match_key(self.params.prefix_match_info_producer_name),)

    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        if not candidates:
            return []
        match = prefix_match(state, self.params.prefix_match_info_producer_name)
        cached = cached_tokens(request, match, [candidate.endpoint for candidate in candidates])
        most = max(cached)
        exploit = most > request.prompt_tokens - most
        costs = [
            (self._cost(candidate.endpoint, request.prompt_tokens, held), place)
            for place, (candidate, held) in enumerate(zip(candidates, cached, strict=True))
            if held == most or not exploit
        ]
        return chosen_first(candidates[min(costs)[1]], candidates)

    def _cost(self, endpoint: Endpoint, prompt: int, cached: int) -> float:
        window = self._windows.get(endpoint.id)
        done = window.total(self.handle.clock.now() - self.params.window_seconds) if window else 0.0
        output = fmean(self._output) if self._output else FIRST_OUTPUT_TOKENS
        tpot = median(self._tpot) if self._tpot else FIRST_TPOT_MS
        decoding = self.handle.inflight.load(endpoint.id).requests * output * tpot
        return done + decoding + self.handle.cost.prefill_ms(prompt - cached, cached)

    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        if result.targets:
            chosen, match = result.chosen, prefix_match(state, self.params.prefix_match_info_producer_name)
            cached = cached_tokens(request, match, [chosen])[0]
            ms = self.handle.cost.prefill_ms(request.prompt_tokens - cached, cached)
            self._windows.setdefault(chosen.id, _Window()).add(self.handle.clock.now(), ms)

    def ended(self, outcome: RequestOutcome) -> None:
        if outcome.usage.output_tokens is not None:
            self._output.append(outcome.usage.output_tokens)
        if outcome.tpot_ms is not None:
            self._tpot.append(outcome.tpot_ms)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self._windows.pop(endpoint.id, None)

"""Cost: the running decode step a request waits for, and the slowdown it brings to requests already there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from msgspec import Meta

from pointsman.api.endpoint import Endpoint, InflightLoad
from pointsman.api.request import InferenceRequest
from pointsman.api.result import RequestOutcome
from pointsman.framework.plugin import CostScorer, OutcomeObserver, Params, register
from pointsman.framework.state import CycleState
from pointsman.plugins.scorers._output import ExpectedOutput


class DecodeInterferenceCostParams(Params, frozen=True):
    """Parameters of ``decode-interference-cost``."""

    expected_output_tokens: Annotated[
        int,
        Meta(
            ge=0,
            description="Output tokens of a typical request, until answers were seen; no client says it in advance.",
        ),
    ] = 256
    learn_output_tokens: Annotated[
        bool,
        Meta(
            description="Take the mean of the answers that are looked at (observeShare) and tell their usage, instead."
        ),
    ] = True
    interference_weight: Annotated[
        float,
        Meta(
            ge=0,
            description="Share of the others' slowdown that is charged. 0.01 keeps one endpoint from filling up and "
            "leaves TTFT alone; 0.25 costs TTFT.",
        ),
    ] = 0.01


@register("decode-interference-cost")
class DecodeInterferenceCost(CostScorer[DecodeInterferenceCostParams], OutcomeObserver):
    """Half a decode step while anything decodes, plus a small share of what the others lose.

    The context of a batch is taken as its requests' mean prompt plus half their expected output. What they lose per
    token is the step's growth by one more request with this prompt.
    """

    formula = (
        "0.5·step(decoding) [0 if none decodes] + interferenceWeight·requests·expected output·"
        "(step(1, prompt tokens) - step(0, 0)); times the pod's pace if it stands out"
    )
    inputs = "ledger of work in flight, prompt length, lengths of observed answers"

    def setup(self) -> None:
        self._output = ExpectedOutput(self.params.expected_output_tokens)

    def ended(self, outcome: RequestOutcome) -> None:
        if self.params.learn_output_tokens:
            self._output.learn(outcome)

    def cost(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        step, expected = self.handle.cost.decode_step_ms, self._output.tokens
        # A step's time grows by the same for every batch (CostModel: affine in both), so it is worked out once.
        slowdown = step(1, request.prompt_tokens) - step(0, 0)
        share = self.params.interference_weight * expected * slowdown
        load, half_output = self.handle.inflight.load, 0.5 * expected
        costs = [_cost(load(endpoint.id), half_output, share, step) for endpoint in endpoints]
        paces = self.handle.paces
        if not paces:
            return costs
        return [cost * paces.get(endpoint.id, 1.0) for cost, endpoint in zip(costs, endpoints, strict=True)]


def _cost(load: InflightLoad, half_output: float, share: float, step: Callable[[float, float], float]) -> float:
    count = load.requests
    if not count:
        return 0.0
    decoding = load.decoding
    wait = 0.5 * step(decoding, decoding * (load.context_tokens / count + half_output)) if decoding else 0.0
    return wait + share * count

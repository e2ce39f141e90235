"""Prefill elsewhere, whatever the request."""

from __future__ import annotations

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import Params, register
from pointsman.framework.state import CycleState
from pointsman.plugins.deciders._decider import StageDecider


class AlwaysDisaggPdParams(Params, frozen=True):
    """``always-disagg-pd-decider`` takes no parameters."""


@register("always-disagg-pd-decider")
class AlwaysDisaggPd(StageDecider[AlwaysDisaggPdParams]):
    """For tests, and for pools whose decode pods never prefill."""

    formula = "always"
    inputs = "nothing"

    def wanted(self, request: InferenceRequest, decode: Endpoint | None, state: CycleState) -> bool:
        return True

"""What the latency model learns from: a request whose answer is looked at, from its pick to its end."""

from __future__ import annotations

from pointsman.api.endpoint import EndpointId
from pointsman.api.result import RequestOutcome
from pointsman.latency.fit import FittingModel, Sample
from pointsman.requestcontrol.ledger import Ledger


class Sighting:
    """Begun at the pick, before the request is added to the ledger; told of the end once, after it is taken out."""

    __slots__ = ("_before", "_cached", "_endpoint", "_ledger", "_model", "_prompt")

    def __init__(
        self, model: FittingModel, ledger: Ledger, endpoint: EndpointId, prompt_tokens: int, cached_tokens: int | None
    ) -> None:
        model.begun += 1
        self._model, self._ledger, self._endpoint = model, ledger, endpoint
        self._prompt, self._cached = prompt_tokens, cached_tokens
        self._before = ledger.course(endpoint)

    def ended(self, outcome: RequestOutcome) -> None:
        """The request is over; it teaches nothing unless it was answered."""
        ttft, output = outcome.ttft_ms, outcome.usage.output_tokens
        if ttft is None or outcome.cause != "complete" or outcome.status != 200:
            return
        before, after = self._before, self._ledger.course(self._endpoint)
        life = after.at - before.at
        if life <= 0 or after.arrived <= before.arrived:
            return  # the endpoint was forgotten meanwhile
        prompt = outcome.usage.prompt_tokens or self._prompt
        cached = outcome.usage.cached_tokens
        if cached is None:
            cached = self._cached
        new = None if cached is None else max(0, prompt - cached)
        batch = (after.request_seconds - before.request_seconds) / life
        context = (after.context_seconds - before.context_seconds) / life
        own = self._prompt - (self._cached or 0)  # as it was reserved
        self._model.observe(
            Sample(
                endpoint=self._endpoint,
                new_tokens=new,
                cached_tokens=cached or 0,
                before=before.requests,
                waiting=before.waiting,
                ttft_ms=ttft,
                total_ms=outcome.total_ms,
                output_tokens=output or 0,
                batch=batch,
                # The ledger counts prompts; on average, half of an answer is there.
                context_tokens=context + 0.5 * batch * (output or 0),
                joined=after.arrived - before.arrived - 1,
                joined_tokens=max(0, after.arrived_tokens - before.arrived_tokens - own),
            )
        )

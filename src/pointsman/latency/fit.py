"""A latency model that fits itself to what it sees: the seed's shape, with four factors learnt from answers.

Prefill has a factor on its base and one on all that grows with tokens, a decode step one on its base and one on what
grows with the batch. Few enough to be known after some ten answers, and no measurement can bend the curve between them
into something that no engine does.

* A request that found its pod without prefill ahead tells the prefill: its TTFT, less one and a half decode steps
  when the pod was decoding (the rest of the running one, and the one it shared).
* One that had to wait can only tell that prefill takes no longer than that: enough to get down from a seed so high
  that every pod seems busy for ever.
* Its time per token tells the decode step, less the prefill of the requests that came meanwhile.

To take prefill for less than it is does little harm (x0.5: no worse), to take it for more does (x2: TTFT 10 % worse):
where the two pull, the lower wins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from pointsman.api.endpoint import EndpointId
from pointsman.latency.model import LatencyModel
from pointsman.latency.paces import Paces
from pointsman.latency.scales import Scales

INTERFERENCE = 0.875
"""Share of a prefill's own time that it adds to a step it shares with decodes: a fit to vLLM on 2xH100."""
WAIT_STEPS = 1.5
"""Decode steps in the TTFT at a pod that decodes: half of the one under way, and the one it is part of."""
LEAST_STEPS = 8
"""Answers with fewer tell nothing of the decode step."""
FIRST = 50
"""Requests whose answers are looked at, whatever the share, before sampling begins."""
_TOO_LONG = 2.0
_CERTAINLY_LESS = 0.75
_LARGEST_PREFILL_SHARE = 0.6
_HIDDEN = 1.25
"""A prefill that takes no longer than so many decode steps cannot be measured: the weights are read in any case."""
_USUAL_ERROR, _WAIT_ERROR = 0.05, 0.35
"""Of a TTFT, as a share of it; and of the wait for the running step, as a share of a step (uniform: 0.29)."""
_LEAST_MS = 1e-3
_PACES_EVERY = 8
_MOST_RATIO = 100.0
_HUGE = 1e9


class Sample(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One answered request: what was so at the pick, and what was seen since.

    Attributes:
        endpoint: that served it.
        new_tokens: prompt tokens computed; None when it is not known how many there were.
        cached_tokens: prompt tokens found in the cache.
        before: requests in flight there at the pick.
        waiting: of these, prefills that were ahead of it.
        ttft_ms: from the pick to the first token.
        total_ms: from the pick to the end.
        output_tokens: in all.
        batch: mean number of requests in flight there over its life, itself included.
        context_tokens: mean tokens of context of all of them.
        joined: requests that came there meanwhile.
        joined_tokens: their uncached prompt tokens.
    """

    endpoint: EndpointId
    new_tokens: float | None
    cached_tokens: float
    before: int
    waiting: int
    ttft_ms: float
    total_ms: float
    output_tokens: int
    batch: float
    context_tokens: float
    joined: int
    joined_tokens: float


class FittingModel:
    """A :class:`pointsman.framework.plugin.CostModel` that is told how requests went. One owner, one thread.

    Args:
        seed: coefficients to begin with; factors stay within 0.1 to 10 of them.
        per_pod: whether a pod that is slower or faster than the others is told in ``paces``.

    Attributes:
        paces: by endpoint, how many times longer than elsewhere work takes there; only those that stand out. Replaced
            as a whole.
        begun: requests whose answers are looked at, so far.
    """

    __slots__ = (
        "_base",
        "_cached_pair",
        "_context_token",
        "_counts",
        "_decode",
        "_decode_base",
        "_known",
        "_paces",
        "_pair",
        "_prefill",
        "_request",
        "_token",
        "_told",
        "begun",
        "paces",
        "per_pod",
        "seed",
    )

    def __init__(self, seed: LatencyModel, *, per_pod: bool = False) -> None:
        self.seed, self.per_pod = seed, per_pod
        self.paces: Mapping[EndpointId, float] = {}
        self._prefill, self._decode = Scales(_TOO_LONG), Scales()
        self._counts: Counter[str] = Counter()
        self._paces = Paces()
        self._known: Mapping[EndpointId, float] = {}
        self._told = 0
        self.begun = 0
        self._apply()

    def prefill_ms(self, new_tokens: float, cached_tokens: float) -> float:
        """Milliseconds to prefill ``new_tokens`` behind ``cached_tokens`` already in the KV cache."""
        return self._base + (self._token + self._pair * new_tokens + self._cached_pair * cached_tokens) * new_tokens

    def decode_step_ms(self, requests: float, context_tokens: float) -> float:
        """Milliseconds of one decode step of ``requests`` sequences with ``context_tokens`` in all."""
        return self._decode_base + self._request * requests + self._context_token * context_tokens

    def wants(self, share: float) -> bool:
        """Whether to look at an answer that sampling left out: the first ones, if any may be looked at."""
        return self.begun < FIRST and share > 0

    def observe(self, sample: Sample) -> None:
        """Learn from one answer; never raises, whatever it says."""
        if not _sound(sample):
            self._counts["unsound"] += 1
            return
        step = self._step(sample)
        if step is not None:
            self._learn_decode(sample, step)
        self._learn_prefill(sample, step)
        self._apply()
        self._told += 1
        if self._told % _PACES_EVERY == 0:
            self._known = self._paces.outstanding()
            if self.per_pod:
                self.paces = self._known

    def forget(self, endpoint: EndpointId) -> None:
        """An endpoint is gone."""
        self._paces.forget(endpoint)
        self._known = self._paces.outstanding()
        if self.per_pod:
            self.paces = self._known

    def model(self) -> LatencyModel:
        """The coefficients in force."""
        return LatencyModel(
            prefill_base=self._base,
            prefill_per_token=self._token,
            prefill_per_token_pair=self._pair,
            prefill_per_cached_pair=self._cached_pair,
            decode_base=self._decode_base,
            decode_per_request=self._request,
            decode_per_context_token=self._context_token,
            source=f"fitted, from: {self.seed.source}",
        )

    def describe(self) -> dict[str, Any]:
        """What has been learnt, as plain data: factors on the seed, coefficients, errors, counts, speeds of pods."""
        prefill, decode = self._prefill, self._decode
        return {
            "seed": self.seed.source,
            "factors": {
                "prefill_base": round(prefill.first, 4),
                "prefill_tokens": round(prefill.second, 4),
                "decode_base": round(decode.first, 4),
                "decode_batch": round(decode.second, 4),
            },
            "coefficients": msgspec.to_builtins(self.model()),
            "samples": {"prefill": prefill.count, "decode": decode.count, **self._counts},
            "error": {"ttft": round(prefill.spread, 4), "step": round(decode.spread, 4)},
            "drifts": {"prefill": prefill.drifts, "decode": decode.drifts},
            "slowness": {endpoint: round(value, 3) for endpoint, value in self._paces.slowness().items()},
        }

    def _step(self, sample: Sample) -> float | None:
        """The mean decode step over the answer, less the prefills that shared it; None when it cannot be told."""
        steps = sample.output_tokens - 1
        if steps < LEAST_STEPS:
            return None
        step = (sample.total_ms - sample.ttft_ms) / steps
        if not sample.joined:
            return step
        prefill = sample.joined * self.prefill_ms(sample.joined_tokens / sample.joined, 0)
        alone = step - INTERFERENCE * prefill / steps
        if alone < (1 - _LARGEST_PREFILL_SHARE) * step:
            self._counts["too-much-prefill"] += 1
            return None
        return alone

    def _learn_decode(self, sample: Sample, step: float) -> None:
        seed = self.seed
        growth = seed.decode_per_request * sample.batch + seed.decode_per_context_token * sample.context_tokens
        expected = self._decode.first * seed.decode_base + self._decode.second * growth
        if expected > 0:
            self._paces.add(sample.endpoint, step / expected)
        step /= self._known.get(sample.endpoint, 1.0)
        whole = max(expected, 0.5 * step, _LEAST_MS)
        self._decode.learn(seed.decode_base / whole, growth / whole, step / whole)

    def _step_at_pick(self, sample: Sample, measured: float | None) -> float:
        """A decode step when the request came, ms.

        Its own measured step is better than any model, for the seed's may be wrong, too; but it is of a batch that
        may have grown or shrunk since.
        """
        decoding = sample.before - sample.waiting
        context = sample.context_tokens / sample.batch if sample.batch > 0 else 0.0
        then = self.decode_step_ms(decoding, decoding * context)
        if measured is None:
            return then
        mean = self.decode_step_ms(sample.batch, sample.context_tokens)
        return measured * min(_MOST_RATIO, then / mean) if mean > 0 else measured

    def _learn_prefill(self, sample: Sample, step: float | None) -> None:
        new, seed, ttft = sample.new_tokens, self.seed, sample.ttft_ms
        if not new:
            self._counts["prompt-unknown" if new is None else "all-cached"] += 1
            return
        step = self._step_at_pick(sample, step)
        shared = sample.before > sample.waiting
        own = max(ttft - WAIT_STEPS * step, -ttft) if shared else ttft
        if not shared and own < _HIDDEN * step:
            self._counts["hidden"] += 1
            return
        pace = self._known.get(sample.endpoint, 1.0)
        own, ttft, step = own / pace, ttft / pace, step / pace
        weight = INTERFERENCE if shared else 1.0
        base = weight * seed.prefill_base
        tokens = weight * (seed.prefill_ms(new, sample.cached_tokens) - seed.prefill_base)
        expected = self._prefill.first * base + self._prefill.second * tokens
        if sample.waiting and own > _CERTAINLY_LESS * expected:
            self._counts["waited"] += 1
            return
        # Relative to the whole TTFT, of which a short prompt's prefill is a small part.
        whole = max(expected + ttft - own, 0.5 * ttft, _LEAST_MS)
        error = _USUAL_ERROR + (_WAIT_ERROR * min(1.0, step / whole) if shared else 0.0)
        self._prefill.learn(base / whole, tokens / whole, own / whole, error_scale=error / _USUAL_ERROR)

    def _apply(self) -> None:
        """Work out the coefficients, so that asking costs no more than it does of the seed."""
        seed, prefill, decode = self.seed, self._prefill, self._decode
        self._base = prefill.first * seed.prefill_base
        self._token = prefill.second * seed.prefill_per_token
        self._pair = prefill.second * seed.prefill_per_token_pair
        self._cached_pair = prefill.second * seed.prefill_per_cached_pair
        self._decode_base = decode.first * seed.decode_base
        self._request = decode.second * seed.decode_per_request
        self._context_token = decode.second * seed.decode_per_context_token


def _sound(sample: Sample) -> bool:
    """Whether the numbers can be those of a request; a comparison with NaN is false."""
    return (
        0 < sample.ttft_ms <= sample.total_ms < _HUGE
        and 0 <= (sample.new_tokens or 0) < _HUGE
        and 0 <= sample.cached_tokens < _HUGE
        and 0 <= sample.batch < _HUGE
        and 0 <= sample.context_tokens < _HUGE
        and 0 <= sample.joined < _HUGE
        and 0 <= sample.joined_tokens < _HUGE
        and 0 <= sample.waiting <= sample.before
    )

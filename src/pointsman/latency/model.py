"""Engine time as a polynomial: what a prefill or a decode step costs, in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class LatencyModel(msgspec.Struct, frozen=True, kw_only=True):
    """Coefficients of one model on one kind of server; all in milliseconds.

    ``prefill = base + per_token·n + per_token_pair·n² + per_cached_pair·n·cached``, where the last two are attention:
    every new token looks at the new tokens before it and at all cached ones.
    ``decode step = base + per_request·B + per_context_token·Σctx``.
    """

    prefill_base: float
    prefill_per_token: float
    prefill_per_token_pair: float
    prefill_per_cached_pair: float
    decode_base: float
    decode_per_request: float
    decode_per_context_token: float
    source: str = ""
    """Where the coefficients come from."""

    def prefill_ms(self, new_tokens: float, cached_tokens: float) -> float:
        """Milliseconds to prefill ``new_tokens`` behind ``cached_tokens`` already in the KV cache."""
        attention = self.prefill_per_token_pair * new_tokens + self.prefill_per_cached_pair * cached_tokens
        return self.prefill_base + (self.prefill_per_token + attention) * new_tokens

    def decode_step_ms(self, requests: float, context_tokens: float) -> float:
        """Milliseconds of one decode step of ``requests`` sequences with ``context_tokens`` in all."""
        return self.decode_base + self.decode_per_request * requests + self.decode_per_context_token * context_tokens


_AIC = "fit of aiconfigurator 0.12 (vLLM kernel measurements), batch 1, BF16"

LATENCY_PROFILES: Mapping[str, LatencyModel] = {
    # Prefill within 5 % from 1,000 tokens up, decode within 6 %. The cached term was measured at 1.6e-6; twice the
    # square term, which is what the arithmetic of attention asks for, is used here and below.
    "qwen3-32b-2xh100": LatencyModel(
        prefill_base=8.0,
        prefill_per_token=0.0475,
        prefill_per_token_pair=8.7e-7,
        prefill_per_cached_pair=1.74e-6,
        decode_base=13.6,
        decode_per_request=0.0268,
        decode_per_context_token=4.22e-5,
        source=f"{_AIC}, TP=2, H100 SXM",
    ),
    # Below some 256 tokens the next two may be 25 % off.
    "llama-3.1-70b-4xh100": LatencyModel(
        prefill_base=7.9,
        prefill_per_token=0.0599,
        prefill_per_token_pair=5.4e-7,
        prefill_per_cached_pair=1.08e-6,
        decode_base=15.2,
        decode_per_request=0.0325,
        decode_per_context_token=2.64e-5,
        source=f"{_AIC}, TP=4, H100 SXM",
    ),
    "qwen3-8b-1xh100": LatencyModel(
        prefill_base=4.5,
        prefill_per_token=0.0186,
        prefill_per_token_pair=4.9e-7,
        prefill_per_cached_pair=9.8e-7,
        decode_base=6.6,
        decode_per_request=0.0121,
        decode_per_context_token=4.7e-5,
        source=f"{_AIC}, TP=1, H100 SXM",
    ),
}

DEFAULT_PROFILE = "qwen3-32b-2xh100"
"""The model and server that the reference measurements were made with."""

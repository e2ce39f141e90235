"""SGLang's own HTTP body: ``/generate`` with text or token ids."""

from __future__ import annotations

from typing import Any

import msgspec

from pointsman.requestcontrol.parsers.body import Common, Count, Parsed, text_or_tokens


class _Sampling(msgspec.Struct):
    max_new_tokens: Count | None = None


class _Generate(Common, kw_only=True):
    text: str | list[Any] | None = None
    input_ids: list[Any] | None = None
    sampling_params: msgspec.Raw = msgspec.Raw()


def parse_generate(body: bytes) -> Parsed:
    """A prompt, or a batch of prompts; the body names no model, and its adapter only in ways of SGLang's own."""
    asked = _GENERATE.decode(body)
    given, field = (asked.input_ids, "input_ids") if asked.input_ids is not None else (asked.text, "text")
    # without either the prompt is embeddings, an image or an error: the server knows
    prompt, ids = (b"", None) if given is None else text_or_tokens(given, field)
    return Parsed(asked, prompt, ids, _most_tokens(asked.sampling_params))


def _most_tokens(raw: msgspec.Raw) -> int | None:
    """The bound on new tokens; a batch may have a list of parameters, whose bounds are not looked at."""
    if not bytes(raw).startswith(b"{"):
        return None
    return _SAMPLING.decode(raw).max_new_tokens


_GENERATE = msgspec.json.Decoder(_Generate)
_SAMPLING = msgspec.json.Decoder(_Sampling)

PARSERS = {"/generate": parse_generate}
"""Path suffix → parser."""

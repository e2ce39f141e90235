"""The length of a prompt without a tokenizer: four bytes to a token, as llm-d has it, and a figure per image.

The same four bytes cut the blocks of the approximate prefix index, so matched and total tokens stay comparable: a
better guess of the total alone would make them less so.
"""

from __future__ import annotations

import re

import msgspec

from pointsman.api.request import BYTES_PER_TOKEN, InferenceRequest

_IMAGE = re.compile(rb'"type"\s*:\s*"(?:image_url|input_image|image)"')
_EMBEDDED = re.compile(rb'"data:[a-z]+/[^"]*"')


class Estimate(msgspec.Struct, frozen=True):
    """Guesses lengths."""

    image_tokens: int = 225
    """640 x 360 pixels, 1024 to a token: llm-d's figures."""

    def tokens(self, request: InferenceRequest) -> int:
        """Tokens of the prompt."""
        prompt = request.prompt
        images = len(_IMAGE.findall(prompt)) if b"image" in prompt else 0
        if not images:
            return request.prompt_tokens
        # An image sent along is megabytes of base64, but as many tokens as any other of its size.
        embedded = sum(len(found) for found in _EMBEDDED.findall(prompt))
        return max(0, request.prompt_tokens - embedded // BYTES_PER_TOKEN) + images * self.image_tokens

"""What became of a request's prompt: its token ids or an estimate, how they were got, and whether in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from pointsman.api.request import InferenceRequest

WayName: TypeAlias = Literal["client", "exact-local", "engine", "estimate"]
"""Who said it: the client sent ids, our own tokenizer, the engine's, or nobody (bytes divided by four)."""


class Tokenization(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens of one prompt.

    Attributes:
        way: how they were got.
        prompt_tokens: how many there are.
        token_ids: exact ids, None for an estimate.
        late: a better way was there and did not answer within the budget, or was not tried because of its past.
        away: a better way could not be reached.
        ms: time spent waiting.
        problems: what came of the ways that did not tell, ``WAY: why``.
    """

    way: WayName
    prompt_tokens: int
    token_ids: Sequence[int] | None = None
    late: bool = False
    away: bool = False
    ms: float = 0.0
    problems: tuple[str, ...] = ()


class UnableError(Exception):
    """This way cannot tokenize this prompt, whatever the time."""


class AwayError(UnableError):
    """This way cannot be asked at the moment."""


class TooSlowError(Exception):
    """This way would probably take longer than the budget; it was not waited for."""


class TokenWay(Protocol):
    """A way to exact token ids."""

    name: WayName

    async def tokens(self, request: InferenceRequest, body: bytes) -> tuple[int, ...]:
        """The ids of a request's prompt. May be cancelled at any time.

        Raises:
            UnableError, TooSlowError: the next way is to be asked.
        """

    def stats(self) -> dict[str, float]:
        """Figures for the admin page."""

    async def close(self) -> None:
        """Let go of threads and connections."""

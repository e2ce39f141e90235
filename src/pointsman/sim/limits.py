"""What an engine refuses, in vLLM's words."""

from __future__ import annotations

from pointsman.errors import BadRequestError


def check_length(prompt_tokens: int, max_tokens: int, limit: int) -> None:
    """Refuse what can never run.

    Raises:
        BadRequestError: if the request is empty, or prompt and answer together exceed ``limit`` tokens.
    """
    if prompt_tokens < 1 or max_tokens < 1:
        raise BadRequestError("a request needs at least one prompt token and one output token")
    total = prompt_tokens + max_tokens
    if total > limit:
        raise BadRequestError(
            f"This model's maximum context length is {limit} tokens. However, you requested {max_tokens} output "
            f"tokens and your prompt contains {prompt_tokens} input tokens, for a total of {total} tokens. Please "
            "reduce the length of the input prompt or the number of requested output tokens. "
            f"(parameter=input_tokens, value={prompt_tokens})"
        )

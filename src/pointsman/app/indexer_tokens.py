"""What lets the indexer answer for prompts: its tokenizing service, from two flags to the ids of a query."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pointsman.errors import ConfigError
from pointsman.kvcache.query import parse_query
from pointsman.plugins.producers.token_producer import (
    POOL,
    LocalParams,
    TokenProducerParams,
    VllmParams,
    check_files,
    is_url,
)
from pointsman.requestcontrol.prompt_query import Asked, prompt_field, read_prompt_query
from pointsman.requestcontrol.tokenizing.assemble import make_tokenizing
from pointsman.requestcontrol.tokenizing.service import Tokenizing

BUDGET_MS = 1000.0


def token_options(tokenizer: Path | None, url: str | None, budget_ms: float = BUDGET_MS) -> TokenProducerParams | None:
    """The flags of ``pointsman indexer`` as the service knows them; None when neither way is wanted.

    Raises:
        ConfigError: a flag cannot be used.
    """
    if not 1 <= budget_ms <= 60_000:
        raise ConfigError(f"--tokenize-budget-ms: expected a number from 1 to 60000, got {budget_ms:g}")
    local = None if tokenizer is None else LocalParams(path=str(tokenizer))
    if local is not None:
        check_files(local, "--tokenizer")
    if url is not None and url != POOL and not is_url(url):
        raise ConfigError(f"--tokenize-url: {url!r} is no address", hint="write it like http://10.0.0.1:8000, or pool")
    if local is None and url is None:
        return None
    return TokenProducerParams(local=local, vllm=None if url is None else VllmParams(url=url), budget_ms=budget_ms)


class QueryReader:
    """Makes queries of bodies; finds the token ids of those that hold a prompt. Belongs to one event loop.

    Args:
        params: from :func:`token_options`.
        pods: address of a pod that may be asked to tokenize, None when there is none.
    """

    def __init__(self, params: TokenProducerParams | None, pods: Callable[[], str | None]) -> None:
        self._params, self._pods = params, pods
        self._service = Tokenizing()

    async def start(self) -> None:
        """Read the tokenizer.

        Raises:
            ConfigError: if it cannot be used.
        """
        if self._params is None:
            return
        try:
            self._service = await asyncio.to_thread(make_tokenizing, self._params, pods=self._pods)
        except ConfigError as error:
            raise ConfigError(f"--tokenizer: {error.message}", hint=error.hint) from error

    async def read(self, body: bytes) -> Asked:
        """A query of either kind.

        Raises:
            BadQueryError: it cannot be understood, or nobody can tell its tokens.
            NoTokensError: its tokens cannot be had in time.
        """
        field = prompt_field(body)
        if not field:
            return Asked(parse_query(body), wants_ids=False)
        return await read_prompt_query(body, field, self._service)

    def stats(self) -> dict[str, Any]:
        """How prompts were tokenized."""
        return self._service.stats()

    async def stop(self) -> None:
        """Let go of threads and connections."""
        await self._service.close()

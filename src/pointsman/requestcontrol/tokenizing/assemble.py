"""From the ``token-producer`` entries of a plan to the service that does what they say."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pointsman.errors import ConfigError
from pointsman.framework.plan import Plan
from pointsman.plugins.producers.token_producer import POOL, EstimateParams, TokenProducer, TokenProducerParams
from pointsman.requestcontrol.tokenizing.estimate import Estimate
from pointsman.requestcontrol.tokenizing.guard import Guard
from pointsman.requestcontrol.tokenizing.remote import EngineWay
from pointsman.requestcontrol.tokenizing.result import TokenWay
from pointsman.requestcontrol.tokenizing.service import Tokenizing


def token_params(plan: Plan) -> TokenProducerParams | None:
    """What a plan wants of the tokenizer; None when it has no such entry. Equal parameters need no new service.

    Raises:
        ConfigError: if it has several.
    """
    found = [plugin for plugin in plan.plugins.values() if isinstance(plugin, TokenProducer)]
    if len(found) > 1:
        names = ", ".join(plugin.name for plugin in found)
        raise ConfigError(f"{len(found)} token producers: {names}", field="plugins", hint="keep one")
    return found[0].params if found else None


def make_tokenizing(
    params: TokenProducerParams | None,
    now: Callable[[], float] = time.perf_counter,
    pods: Callable[[], str | None] = lambda: None,
) -> Tokenizing:
    """Build the service. Reads the tokenizer's files: seconds for a large one, so keep it off a serving event loop.

    Args:
        params: of the plan.
        now: real seconds.
        pods: address of a model server of the pool, for those who want one of them asked; None when none is left.

    Raises:
        ConfigError: if a file cannot be used.
    """
    if params is None:
        return Tokenizing(now=now)
    ways: list[TokenWay] = []
    if params.local is not None:
        ways.append(_local_way(params, now))
    engine = params.engine
    if engine is not None:
        ways.append(
            EngineWay(
                pods if engine.url == POOL else engine.url,
                Guard(params.budget_ms),
                now,
                endpoint=engine.endpoint,
                timeout=engine.timeout_seconds,
                mm_timeout=engine.mm_timeout_seconds,
                model=params.model_name,
            )
        )
    estimate = Estimate(image_tokens=(params.estimate or EstimateParams()).image.tokens)
    return Tokenizing(ways, budget_ms=params.budget_ms, estimate=estimate, now=now)


def _local_way(params: TokenProducerParams, now: Callable[[], float]) -> TokenWay:
    # Imported here: the libraries are an extra, and only this way needs them.
    from pointsman.requestcontrol.tokenizing.local import load_tokenizer  # noqa: PLC0415
    from pointsman.requestcontrol.tokenizing.threads import LocalWay  # noqa: PLC0415

    local = params.local
    assert local is not None
    template = Path(local.chat_template) if local.chat_template else None
    try:
        tokenizer = load_tokenizer(Path(local.path), template=template, cache_bytes=local.cache_megabytes * 1024 * 1024)
    except Exception as error:
        raise ConfigError(
            f"the tokenizer cannot be used: {error}",
            field="token-producer.parameters.local.path",
            hint="give the folder of the model as its publisher made it",
        ) from error
    return LocalWay(tokenizer, Guard(params.budget_ms), now, threads=local.threads)

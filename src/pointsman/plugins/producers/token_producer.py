"""Says how the token ids of prompts are found: by a tokenizer in the picker, by an engine, or by an estimate.

It is configuration and nothing else. Tokenizing takes milliseconds, so the Director does it before producers run, off
the event loop (:mod:`pointsman.requestcontrol.tokenizing`), and producers find the ids in the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.errors import ConfigError
from pointsman.framework.plugin import DataProducer, Params, register
from pointsman.framework.state import CycleState
from pointsman.plugins.filters.memory_pressure import duration_seconds

POOL = "pool"
"""Instead of an engine's address: any healthy one of the pool."""
_DURATION = r"^(\d+(\.\d+)?(ms|s|m|h))+$"


class Resolution(Params, frozen=True):
    """Pixels."""

    width: Annotated[int, Meta(ge=1)] = 640
    height: Annotated[int, Meta(ge=1)] = 360


class DynamicImage(Params, frozen=True):
    """Pixels per token."""

    factor: Annotated[int, Meta(ge=1)] = 1024


class StaticImage(Params, frozen=True):
    """Tokens per image."""

    static_token: Annotated[int, Meta(ge=1)] = 1


class ImageEstimate(Params, frozen=True):
    """How many tokens an image counts for."""

    mode: Literal["dynamic", "static"] = "dynamic"
    default_resolution: Resolution = Resolution()
    dynamic: DynamicImage = DynamicImage()
    static: StaticImage = StaticImage()

    @property
    def tokens(self) -> int:
        if self.mode == "static":
            return self.static.static_token
        return max(1, self.default_resolution.width * self.default_resolution.height // self.dynamic.factor)


class EstimateParams(Params, frozen=True):
    """The last resort: four bytes to a token."""

    image: ImageEstimate = ImageEstimate()
    video: Mapping[str, Any] = msgspec.field(default_factory=dict)
    audio: Mapping[str, Any] = msgspec.field(default_factory=dict)


class VllmParams(Params, frozen=True):
    """An engine that is asked."""

    url: str = "http://localhost:8000"
    timeout: Annotated[str, Meta(pattern=_DURATION)] = "5s"
    mm_timeout: Annotated[str, Meta(pattern=_DURATION)] = "30s"
    endpoint: Literal["auto", "render", "tokenize"] = "auto"

    @property
    def timeout_seconds(self) -> float:
        return duration_seconds(self.timeout)

    @property
    def mm_timeout_seconds(self) -> float:
        return duration_seconds(self.mm_timeout)


class LocalParams(Params, frozen=True):
    """A tokenizer in the picker."""

    path: str
    chat_template: str = ""
    cache_megabytes: Annotated[int, Meta(ge=0)] = 64
    threads: Annotated[int, Meta(ge=1, le=4)] = 2


class TokenProducerParams(Params, frozen=True):
    """Parameters of ``token-producer``: llm-d's, and ``local`` and ``budgetMs`` of ours."""

    model_name: Annotated[
        str,
        Meta(
            description="Name under which an engine is asked; the request's target model when empty. As in llm-d, "
            "given alone it means vllm with its defaults."
        ),
    ] = ""
    local: Annotated[
        LocalParams | None,
        Meta(
            description="A tokenizer in the picker, asked first: path = the model's folder or its tokenizer.json, "
            "chatTemplate = a file to use instead of the folder's, cacheMegabytes = 64 for known pieces of "
            "conversations, threads = 2. Needs the extra pointsman[tokenizer]."
        ),
    ] = None
    vllm: Annotated[
        VllmParams | None,
        Meta(
            description="An engine to ask next: url = http://localhost:8000, or pool for the pool's own pods in turn, "
            "timeout = 5s, mmTimeout = 30s, endpoint "
            "= auto (/render, and /tokenize where that is not served), render or tokenize."
        ),
    ] = None
    estimate: Annotated[
        EstimateParams | None,
        Meta(
            description="The last resort, 4 bytes to a token: image.mode = dynamic (image.defaultResolution 640x360 "
            "over image.dynamic.factor 1024) or static (image.static.staticToken). video and audio are accepted "
            "without effect."
        ),
    ] = None
    budget_ms: Annotated[
        float,
        Meta(
            gt=0,
            le=60_000,
            description="Milliseconds a request waits for its tokens at the most; then the estimate is used. Sizes "
            "whose 95th percentile is over it skip a way but for a probe each second. An engine takes 13 ms and more "
            "for 6000 tokens: allow for that when it is the only way.",
        ),
    ] = 8.0
    uds_tokenizer_config: Annotated[Any, Meta(description="llm-d's old sidecar over a Unix socket; refused.")] = None

    @property
    def engine(self) -> VllmParams | None:
        """The engine to ask, with llm-d's rule that a model's name alone means one."""
        alone = self.model_name and self.local is None and self.estimate is None
        return self.vllm or (VllmParams() if alone else None)


@register("token-producer")
class TokenProducer(DataProducer[TokenProducerParams]):
    """Says how the token ids of prompts are found: in the picker, by an engine, or by an estimate."""

    formula = "token ids of the prompt: the client's own, else local, else vllm, else bytes / 4, within budgetMs"
    inputs = "request body, tokenizer.json and chat template of the model, /render or /tokenize of an engine"

    def setup(self) -> None:
        if self.params.uds_tokenizer_config is not None:
            raise ConfigError(
                "parameters.udsTokenizerConfig: the tokenizer over a Unix socket is not supported",
                hint="give vllm.url, or local.path",
            )
        engine = self.params.engine
        if engine is not None and engine.url != POOL and not is_url(engine.url):
            raise ConfigError(
                f"parameters.vllm.url: {engine.url!r} is no address", hint="write it like http://localhost:8000"
            )
        if self.params.local is not None:
            check_files(self.params.local)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        """Nothing: the ids are in the request by now."""


@register("tokenizer")
class Tokenizer(TokenProducer):
    """llm-d's old name of token-producer."""


def check_files(local: LocalParams, named: str = "parameters.local.path") -> None:
    """See that a tokenizer's files and the libraries for them are there.

    Args:
        local: where they should be.
        named: what the user wrote the path into, for the message.

    Raises:
        ConfigError: if something is missing.
    """
    path = Path(local.path)
    if not local.path or not path.exists():
        raise ConfigError(f"{named}: {local.path!r} does not exist", hint="give the model's folder, as seen from here")
    if path.is_dir() and not (path / "tokenizer.json").is_file():
        raise ConfigError(
            f"{named}: {local.path!r} holds no tokenizer.json",
            hint="give the folder with the model's tokenizer.json, or have an engine asked by its URL",
        )
    if local.chat_template and not Path(local.chat_template).is_file():
        raise ConfigError(
            f"parameters.local.chatTemplate: {local.chat_template!r} is no file", hint="leave it out, or give a file"
        )
    missing = [name for name in ("tokenizers", "jinja2") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{named}: {' and '.join(missing)} not installed", hint="pip install 'pointsman[tokenizer]'")


def is_url(text: str) -> bool:
    """Whether it is the address of an HTTP server."""
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False

"""Configuration as written in files: strict, camelCase.

``EndpointPickerConfig`` is llm-d's format (``llm-d.ai/v1alpha1``, ``llm-d.ai/v1`` and the older
``inference.networking.x-k8s.io/v1alpha1``) plus a few fields of ours; ``ShortConfig`` is the compact form with
``filters``, ``scorers`` and ``selection`` that becomes one profile.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

API_VERSIONS = ("llm-d.ai/v1alpha1", "llm-d.ai/v1", "inference.networking.x-k8s.io/v1alpha1")
DEPRECATED_API_VERSION = "inference.networking.x-k8s.io/v1alpha1"
KIND = "EndpointPickerConfig"

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Weight = Annotated[float, Meta(ge=0, le=1e9)]
FallbackMode = Literal["round-robin", "refuse"]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base: unknown fields are refused."""


class PluginConfig(_Strict, frozen=True):
    """A plugin to build; ``name`` defaults to ``type``."""

    type: Name
    name: Name | None = None
    parameters: dict[str, Any] | None = None


class ProfilePlugin(_Strict, frozen=True):
    """A plugin's place in a profile; ``weight`` counts for scorers."""

    plugin_ref: Name
    weight: Weight | None = None


class ProfileConfig(_Strict, frozen=True):
    """A scheduling profile: filters, scorers and a picker, by name."""

    name: Name
    plugins: list[ProfilePlugin] = []


class PluginRef(_Strict, frozen=True):
    """A reference to a plugin by name."""

    plugin_ref: Name


class DataSourceConfig(_Strict, frozen=True):
    """llm-d: a data source and what reads it. Scraping is built in here, so this is accepted and noted."""

    plugin_ref: Name
    extractors: list[PluginRef] = []


class DataLayerConfig(_Strict, frozen=True):
    """llm-d's ``dataLayer``."""

    inject_defaults: bool = True
    sources: list[DataSourceConfig] = []
    discovery: dict[str, Any] | None = None
    peer_discovery: PluginRef | None = None
    cross_replica: dict[str, Any] | None = None
    cross_replica_syncer_plugin_ref: str | None = None
    cross_replica_sync_interval: str | None = None


class RequestHandlerConfig(_Strict, frozen=True):
    """llm-d's ``requestHandler``."""

    parsers: list[PluginRef] = []
    propagate_priority: bool = False


GaugeName = Literal[
    "waiting", "running", "kvUsage", "sampledAt", "ttftP50", "ttftP95", "ttftCount", "itlP50", "itlP95", "itlCount"
]


class PrometheusConfig(_Strict, frozen=True):
    """Engine gauges by PromQL, from a Prometheus that scrapes the engines anyway.

    ``queries`` replaces single queries of the defaults, which are vLLM's; an empty text leaves a quantity out. See
    docs/prometheus-source.md for placeholders and for how answers are matched to endpoints.
    """

    url: Annotated[str, Meta(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
    """Up to what comes before ``/api/v1/query``."""
    period_seconds: Annotated[float, Meta(ge=0.1, le=600)] = 5.0
    """Between the beginnings of two rounds of questions."""
    deadline_seconds: Annotated[float, Meta(ge=0.05, le=60)] = 2.0
    """For a round in all."""
    max_age_seconds: Annotated[float, Meta(ge=0.1, le=3600)] = 30.0
    """Samples older than that count for nothing; the endpoint is read directly then."""
    selector: Annotated[str, Meta(max_length=2000)] = ""
    """Matchers for the default queries, such as ``job="vllm", namespace="llm"``."""
    window: Annotated[str, Meta(pattern=r"^([0-9]+(ms|[smhd]))+$")] = "1m"
    """Behind quantiles of latencies; at least two of Prometheus's scrape intervals."""
    queries: dict[GaugeName, Annotated[str, Meta(max_length=10_000)]] = {}
    bearer_token_file: Name | None = None
    """Read anew each round."""
    username: Name | None = None
    password_file: Name | None = None
    ca_file: Name | None = None
    """Certificates to trust, PEM, instead of the system's."""

    def __post_init__(self) -> None:
        if not self.queries.get("sampledAt", "-").strip():
            raise ValueError("queries.sampledAt cannot be left out: without it nobody knows how old the gauges are")
        if self.username is not None and self.bearer_token_file is not None:
            raise ValueError("username and bearerTokenFile are both given; keep one of them")
        if (self.username is None) != (self.password_file is None):
            raise ValueError("username and passwordFile go together")


class EndpointPickerConfig(_Strict, frozen=True):
    """The whole configuration.

    Fields beyond llm-d's: ``pluginPaths`` (Python files with your own plugins, relative to the configuration file),
    ``prometheus`` (engine gauges by PromQL; see docs/prometheus-source.md),
    ``fallback`` (what happens when the filters leave no endpoint), ``latencyProfile`` (engine coefficients behind every
    estimate in milliseconds: a name, or a file that ``pointsman calibrate`` wrote, relative to this one),
    ``latencyFit`` (whether they are fitted to the answers looked at), ``latencyPerPod`` (whether the fit tells pods
    apart that are a third slower or faster than the others), ``observeShare`` (share of responses looked at for first
    token and usage; the first fifty are looked at in any case when they are to be fitted, unless it is 0),
    ``pickBudget`` (milliseconds after which scorers still to come are left out, and a plugin that is still busy is cut
    off), ``shadow`` (a second configuration that looks at every decision and never acts: one of the profiles, a file
    relative to this one, or a preset; ``preset:NAME`` is always the preset) and ``shadowShare`` (share of decisions it
    looks at).
    """

    api_version: str = "llm-d.ai/v1alpha1"
    kind: str = KIND
    metadata: dict[str, Any] | None = None
    feature_gates: list[str] = []
    plugins: list[PluginConfig] = []
    scheduling_profiles: list[ProfileConfig] = []
    data_layer: DataLayerConfig | None = None
    flow_control: dict[str, Any] | None = None
    request_handler: RequestHandlerConfig | None = None
    saturation_detector: dict[str, Any] | None = None
    parser: PluginRef | None = None
    plugin_paths: list[Name] = []
    prometheus: PrometheusConfig | None = None
    fallback: FallbackMode = "round-robin"
    latency_profile: Name = "qwen3-32b-2xh100"
    latency_fit: bool = True
    latency_per_pod: bool = True
    observe_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    pick_budget: Annotated[float, Meta(gt=0, le=10_000)] = 150.0
    shadow: Name | None = None
    shadow_share: Annotated[float, Meta(ge=0, le=1)] = 1.0


class SelectionConfig(_Strict, frozen=True):
    """The short form's ``selection``: ``topK`` alone means a uniform choice among the best K."""

    top_k: Annotated[int, Meta(ge=1, le=1000)] | None = None
    type: Name | None = None
    parameters: dict[str, Any] | None = None


class ShortConfig(_Strict, frozen=True):
    """The short form. ``filters`` and ``scorers`` hold entries with ``type``, and parameters nested or beside it."""

    filters: list[dict[str, Any]] = []
    scorers: list[dict[str, Any]] = []
    selection: SelectionConfig = SelectionConfig()
    plugin_paths: list[Name] = []
    prometheus: PrometheusConfig | None = None
    fallback: FallbackMode = "round-robin"
    latency_profile: Name = "qwen3-32b-2xh100"
    latency_fit: bool = True
    latency_per_pod: bool = True
    observe_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    pick_budget: Annotated[float, Meta(gt=0, le=10_000)] = 150.0
    shadow: Name | None = None
    shadow_share: Annotated[float, Meta(ge=0, le=1)] = 1.0

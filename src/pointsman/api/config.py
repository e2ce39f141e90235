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


class EndpointPickerConfig(_Strict, frozen=True):
    """The whole configuration.

    Fields beyond llm-d's: ``pluginPaths`` (Python files with your own plugins, relative to the configuration file),
    ``fallback`` (what happens when the filters leave no endpoint), ``latencyProfile`` (engine coefficients behind every
    estimate in milliseconds), ``observeShare`` (share of responses looked at for first token and usage),
    ``pickBudget`` (milliseconds after which scorers still to come are left out, and a plugin that is still busy is cut
    off).
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
    fallback: FallbackMode = "round-robin"
    latency_profile: Name = "qwen3-32b-2xh100"
    observe_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    pick_budget: Annotated[float, Meta(gt=0, le=10_000)] = 150.0


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
    fallback: FallbackMode = "round-robin"
    latency_profile: Name = "qwen3-32b-2xh100"
    observe_share: Annotated[float, Meta(ge=0, le=1)] = 0.05
    pick_budget: Annotated[float, Meta(gt=0, le=10_000)] = 150.0

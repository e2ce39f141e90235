"""Kubernetes objects as far as we read them: JSON, or plain data of a YAML file, to typed values.

Strict about what is used, indifferent to the rest: a newer API version may bring fields that we do not know. What
cannot be used raises, with the field; whoever keeps the objects refuses that one and goes on with the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pointsman.errors import ConfigError

POOL_GROUP = "inference.networking.k8s.io"
LEGACY_GROUP = "inference.networking.x-k8s.io"
LLMD_GROUP = "llm-d.ai"
POOL_KIND = "InferencePool"

MAX_PORTS = 8
INT32 = 2**31

Name = Annotated[str, Meta(min_length=1, max_length=253)]
Labels = dict[str, str]


class _Read(msgspec.Struct, frozen=True, rename="camel"):
    """Base of everything that is read; unknown fields are passed over."""


class Identity(_Read, frozen=True):
    """Which object, and which state of it: ``resource_version`` grows with each change where it is a number."""

    name: Name
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class Identified(_Read, frozen=True):
    """An object of any kind, as far as its identity goes."""

    metadata: Identity


class Metadata(_Read, frozen=True):
    """What every object has. Its version is left out: most changes of a pod are none that we look at."""

    name: Name
    namespace: str = ""
    uid: str = ""
    labels: Labels | None = None
    annotations: Labels | None = None
    creation_timestamp: str | None = None
    """RFC 3339 in UTC, so that text order is order in time."""
    deletion_timestamp: str | None = None


class AnyObject(_Read, frozen=True):
    """An object of any kind."""

    metadata: Metadata


class Condition(_Read, frozen=True):
    """One of a pod's conditions."""

    type: str
    status: str


class PodStatus(_Read, frozen=True):
    """Of a pod's status, what makes it an endpoint."""

    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: list[Condition] | None = None


class Pod(AnyObject, frozen=True):
    """A pod."""

    status: PodStatus = PodStatus()

    @property
    def ready(self) -> bool:
        """Whether it may get requests: Ready, and not on its way out."""
        conditions = self.status.conditions or ()
        is_ready = any(condition.type == "Ready" and condition.status == "True" for condition in conditions)
        return is_ready and self.metadata.deletion_timestamp is None


class Requirement(_Read, frozen=True):
    """One of a selector's ``matchExpressions``."""

    key: Name
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] | None = None

    def matches(self, labels: Mapping[str, str]) -> bool:
        """As Kubernetes has it: ``NotIn`` also holds where the label is missing."""
        match self.operator:
            case "In":
                return labels.get(self.key) in (self.values or ())
            case "NotIn":
                return labels.get(self.key) not in (self.values or ())
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels


class Selector(_Read, frozen=True):
    """A label selector. All parts must hold; one without parts selects nothing here."""

    match_labels: Labels | None = None
    match_expressions: list[Requirement] | None = None

    def matches(self, labels: Mapping[str, str]) -> bool:
        wanted, expressions = self.match_labels or {}, self.match_expressions or ()
        if not wanted and not expressions:
            return False
        return all(labels.get(key) == value for key, value in wanted.items()) and all(
            expression.matches(labels) for expression in expressions
        )


class TargetPort(_Read, frozen=True):
    """One of a pool's ports."""

    number: Annotated[int, Meta(ge=1, le=65535)]


class PickerRef(_Read, frozen=True):
    """Which picker a pool names. Its failure mode is the gateway's business; we only show it."""

    name: str = ""
    failure_mode: str = "FailClose"


class PoolSpec(_Read, frozen=True):
    """An InferencePool v1, as stored."""

    selector: Selector
    target_ports: Annotated[list[TargetPort], Meta(min_length=1, max_length=MAX_PORTS)]
    app_protocol: str = "http"
    endpoint_picker_ref: PickerRef | None = None


class PoolObject(AnyObject, frozen=True):
    """An InferencePool v1."""

    spec: PoolSpec


class LegacyPoolSpec(_Read, frozen=True):
    """An InferencePool v1alpha2: one port, and a selector without a layer."""

    selector: Labels
    target_port_number: Annotated[int, Meta(ge=1, le=65535)]
    extension_ref: PickerRef | None = None


class LegacyPoolObject(AnyObject, frozen=True):
    """An InferencePool v1alpha2."""

    spec: LegacyPoolSpec


class Pool(msgspec.Struct, frozen=True):
    """Which pods are endpoints, and at which ports: one endpoint for each of them."""

    name: str
    namespace: str
    selector: Mapping[str, str]
    ports: tuple[int, ...]
    labels: Mapping[str, str] = {}
    app_protocol: str = "http"
    failure_mode: str | None = None
    """FailOpen or FailClose, None when the pool names no picker. The gateway acts on it."""


class PoolRef(_Read, frozen=True):
    """Which pool a policy is about."""

    name: str = ""
    group: str = POOL_GROUP
    kind: str = POOL_KIND

    def names(self, name: str, group: str) -> bool:
        return (self.name, self.group or POOL_GROUP, self.kind or POOL_KIND) == (name, group, POOL_KIND)


class ObjectiveSpec(_Read, frozen=True):
    """An InferenceObjective's spec: v1alpha2 has ``pool_ref``, v1 the other two."""

    priority: Annotated[int, Meta(ge=-INT32, lt=INT32)] | None = None
    pool_ref: PoolRef | None = None
    pool_refs: list[PoolRef] | None = None
    pool_selector: Selector | None = None


class Objective(AnyObject, frozen=True):
    """A named priority."""

    spec: ObjectiveSpec = ObjectiveSpec()


class ModelMatch(_Read, frozen=True):
    """A model's name to compare with."""

    value: Name
    type: Literal["Exact"] = "Exact"


class Match(_Read, frozen=True):
    """One of a rule's conditions; one without a model holds for any."""

    model: ModelMatch | None = None


class TargetModel(_Read, frozen=True):
    """One of a rule's targets."""

    model_rewrite: Name
    weight: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None


class Rule(_Read, frozen=True):
    """One rule of an InferenceModelRewrite."""

    targets: Annotated[list[TargetModel], Meta(min_length=1)]
    matches: list[Match] | None = None


class RewriteSpec(_Read, frozen=True):
    """An InferenceModelRewrite's spec."""

    rules: list[Rule] = []
    pool_ref: PoolRef | None = None


class Rewrite(AnyObject, frozen=True):
    """Rules about which model a request goes to."""

    spec: RewriteSpec = RewriteSpec()

    def __post_init__(self) -> None:
        check_weights(self.spec.rules)


def check_weights(rules: Sequence[Rule]) -> None:
    """Weights are given for all targets of a rule, or for none.

    Raises:
        ValueError: if not.
    """
    for index, rule in enumerate(rules):
        if len({target.weight is None for target in rule.targets}) > 1:
            raise ValueError(f"spec.rules[{index}]: give a weight to every target, or to none")


def make_pool(name: str, namespace: str, selector: Mapping[str, str], ports: Sequence[int]) -> Pool:
    """A pool from its parts, checked.

    Raises:
        ConfigError: an empty selector (it would take every pod of the namespace), or ports given twice, too many or
            none.
    """
    if not selector:
        raise ConfigError("the selector is empty: it would select every pod", field="selector")
    if not 1 <= len(ports) <= MAX_PORTS or len(set(ports)) != len(ports):
        raise ConfigError(f"give 1 to {MAX_PORTS} different ports", field="targetPorts")
    return Pool(name, namespace, dict(selector), tuple(ports))


def decode_pool(raw: bytes) -> Pool:
    """An InferencePool v1.

    Raises:
        msgspec.DecodeError, ConfigError: if it cannot be used.
    """
    found = msgspec.json.decode(raw, type=PoolObject)
    spec, meta = found.spec, found.metadata
    if spec.selector.match_expressions:
        raise ConfigError("only matchLabels are possible", field="spec.selector.matchExpressions")
    pool = make_pool(
        meta.name, meta.namespace, spec.selector.match_labels or {}, [port.number for port in spec.target_ports]
    )
    reference = spec.endpoint_picker_ref
    mode = reference.failure_mode if reference is not None else None
    return msgspec.structs.replace(pool, labels=meta.labels or {}, app_protocol=spec.app_protocol, failure_mode=mode)


def decode_legacy_pool(raw: bytes) -> Pool:
    """An InferencePool v1alpha2.

    Raises:
        msgspec.DecodeError, ConfigError: if it cannot be used.
    """
    found = msgspec.json.decode(raw, type=LegacyPoolObject)
    spec, meta = found.spec, found.metadata
    pool = make_pool(meta.name, meta.namespace, spec.selector, [spec.target_port_number])
    mode = spec.extension_ref.failure_mode if spec.extension_ref is not None else None
    return msgspec.structs.replace(pool, labels=meta.labels or {}, failure_mode=mode)


decode_pod = msgspec.json.Decoder(Pod).decode
decode_objective = msgspec.json.Decoder(Objective).decode
decode_rewrite = msgspec.json.Decoder(Rewrite).decode

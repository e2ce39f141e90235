"""The contracts a plugin fulfils: one abstract method each.

A plugin is a class with a type string, a ``Params`` struct and one pure method. The framework builds it, checks what
it reads and writes, clamps and weights what it says, times it, and survives its exceptions. See docs/add-a-scorer.md.
"""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args

import msgspec

from pointsman.api.endpoint import Endpoint, EndpointId, Growth, InflightLoad
from pointsman.api.request import InferenceRequest
from pointsman.api.result import ProfileRunResult, RequestOutcome, SchedulingResult, ScoredEndpoint
from pointsman.clock import Clock
from pointsman.framework.kv import KvLookup
from pointsman.framework.state import CycleState, StateKey


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of plugin parameters: strict, camelCase in files. Give every field a default where one is sensible."""


_Params = Params
P = TypeVar("P", bound=Params)


class InflightView(Protocol):
    """Read access to the ledger of work in flight."""

    def load(self, endpoint: EndpointId) -> InflightLoad:
        """What is in flight at an endpoint as of now (all zero when nothing is)."""

    def since(self, endpoint: EndpointId, moment: float) -> Growth:
        """What has changed there since a moment of the clock, by our own picks and their ends."""


class CostModel(Protocol):
    """Estimates of engine time, in milliseconds."""

    def prefill_ms(self, new_tokens: float, cached_tokens: float) -> float:
        """Prefill of ``new_tokens`` behind ``cached_tokens`` already in the KV cache."""

    def decode_step_ms(self, requests: float, context_tokens: float) -> float:
        """One decode step of a batch of ``requests`` with ``context_tokens`` in all; affine in both."""


NO_PACES: Mapping[EndpointId, float] = {}


class Handle(msgspec.Struct, frozen=True):
    """What a plugin may use of the world. Time and randomness come from here, never from modules."""

    clock: Clock
    rng: Random
    inflight: InflightView
    cost: CostModel
    kv: KvLookup | None = None
    """What the engines say of their KV caches; None where nothing listens to them."""

    @property
    def paces(self) -> Mapping[EndpointId, float]:
        """How many times longer than elsewhere work takes at endpoints that stand out; 1 for those not named.

        The cost model knows, where it fits itself and is asked to by ``latencyPerPod``.
        """
        paces: Mapping[EndpointId, float] = getattr(self.cost, "paces", NO_PACES)
        return paces


class PluginSpec(msgspec.Struct, frozen=True):
    """A plugin to be built: as written in a file, or asked for by another plugin."""

    type: str
    name: str
    parameters: Mapping[str, Any] = {}


class Plugin(ABC, Generic[P]):
    """Base of every plugin.

    Class attributes:
        type: the type string used in configuration files, kebab-case.
        Params: the parameters' struct; taken from the base's type argument (``Scorer[MyParams]``), so rarely written.
        formula: one line that says what it computes; shown by ``pointsman plugins NAME``.
        inputs: what it looks at, in words.
    """

    type: ClassVar[str] = ""
    Params: ClassVar[builtins.type[_Params]] = Params
    formula: ClassVar[str] = ""
    inputs: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Params" in cls.__dict__:
            return
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, builtins.type) and issubclass(argument, _Params):
                    cls.Params = argument

    def __init__(self, params: P, handle: Handle, name: str = "") -> None:
        self.params = params
        self.handle = handle
        self.name = name or self.type
        self.setup()

    def setup(self) -> None:
        """Build private state. Override instead of ``__init__``."""

    def produces(self) -> tuple[StateKey[Any], ...]:
        """Keys this plugin writes (DataProducers only)."""
        return ()

    def consumes(self) -> tuple[StateKey[Any], ...]:
        """Keys this plugin reads; each must have a producer, checked when the configuration is loaded."""
        return ()

    def stats(self) -> Mapping[str, int]:
        """Counts of one's own, ever growing; shown as the metric ``pointsman_plugin_stat_total``."""
        return {}

    def requires(self) -> tuple[PluginSpec, ...]:
        """Plugins to add when the configuration has none of that name, typically the producer of a consumed key."""
        return ()


class Filter(Plugin[P]):
    """Takes endpoints out.

    ``mandatory`` says that an endpoint it drops cannot serve the request at all (another model), so that not even the
    fallback may use it; other filters drop endpoints that are merely busy.
    """

    mandatory: ClassVar[bool] = False

    @abstractmethod
    def filter(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[Endpoint]:
        """The endpoints to keep, in the order given."""


class Scorer(Plugin[P]):
    """Rates endpoints; the framework clamps to [0, 1] and applies the weight."""

    @abstractmethod
    def score(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        """One value in [0, 1] per endpoint, in their order; higher is better."""


class CostScorer(Plugin[P]):
    """Rates endpoints in engine milliseconds. A profile has either Scorers or CostScorers, never both."""

    @abstractmethod
    def cost(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> Sequence[float]:
        """Expected milliseconds per endpoint, in their order; lower is better, finite, at least 0."""


class Picker(Plugin[P]):
    """Chooses among scored endpoints."""

    @abstractmethod
    def pick(
        self, request: InferenceRequest, candidates: Sequence[ScoredEndpoint], state: CycleState
    ) -> Sequence[ScoredEndpoint]:
        """Candidates in order of preference: the first is the destination, the rest are fallbacks for retries."""


class ProfileHandler(Plugin[P]):
    """Decides which profiles run for a request and which result counts."""

    @abstractmethod
    def handle_profiles(
        self,
        request: InferenceRequest,
        profiles: Sequence[str],
        run: Callable[[str], ProfileRunResult],
        state: CycleState,
    ) -> SchedulingResult:
        """Run profiles by name with ``run`` and combine their results.

        Raises:
            RequestError: to refuse; anything else that is raised costs the handler its say.
        """

    def main_profile(self) -> str | None:
        """The profile that decides alone when this handler fails; None: the first that it ran, else the first."""
        return None

    def check(self, profiles: Collection[str], plugins: Collection[str]) -> None:
        """See that what the parameters name is there, when a configuration is loaded.

        Raises:
            ConfigError: naming the parameter.
        """


class DataProducer(Plugin[P]):
    """Finds facts out before filters and scorers run, and writes them to the CycleState under its keys."""

    @abstractmethod
    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        """Write every key of :meth:`produces`."""


class Admitter(Plugin[P]):
    """Lets a request in or not."""

    @abstractmethod
    def admit(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        """Return to admit.

        Raises:
            AdmissionDeniedError: to refuse for now (429); ForbiddenError to refuse for good (403).
        """


class PickObserver(ABC):
    """Mixin: is told of every decision, right after it, before the request leaves."""

    @abstractmethod
    def picked(self, request: InferenceRequest, result: SchedulingResult, state: CycleState) -> None:
        """Note what was decided."""


class FirstTokenObserver(ABC):
    """Mixin: is told of first tokens, of the share of answers that is looked at (``observeShare``) and no others."""

    @abstractmethod
    def first_token(self, request: InferenceRequest) -> None:
        """The request's prefill is over."""


class OutcomeObserver(ABC):
    """Mixin: is told how requests ended."""

    @abstractmethod
    def ended(self, outcome: RequestOutcome) -> None:
        """Note how it went."""


class AnswerHeaders(ABC):
    """Mixin: puts headers on answers, for debugging and for tests."""

    @abstractmethod
    def answer_headers(self, request: InferenceRequest, chosen: Endpoint, served: str) -> Mapping[str, str]:
        """Headers to set, lower-case names, once the answer's head has come.

        ``served`` is the ``ip:port`` that the proxy says has answered, ``""`` when it does not tell.
        """


class RequestHeaders(ABC):
    """Mixin: puts headers on requests once they are decided, for whoever receives them."""

    @abstractmethod
    def request_headers(
        self, request: InferenceRequest, result: SchedulingResult, state: CycleState
    ) -> Mapping[str, str]:
        """Headers to set, lower-case names; they take the place of the client's."""


class FlowIdentity(ABC):
    """Mixin: finds out whose flow a request belongs to when its client did not say."""

    @abstractmethod
    def flow_of(self, request: InferenceRequest) -> str:
        """The fairness id, ``""`` when there is nothing to go by."""


class EndpointObserver(ABC):
    """Mixin: is told when an endpoint is gone for good, so that state by slot can be dropped."""

    @abstractmethod
    def endpoint_removed(self, endpoint: Endpoint) -> None:
        """Forget the endpoint; its slot may be reused."""


_C = TypeVar("_C", bound=builtins.type[Plugin[Any]])


def register(type_string: str) -> Callable[[_C], _C]:
    """Class decorator that gives a plugin its type string.

    It only marks the class; registries find marked classes by looking into modules, so importing a module twice or
    from a test has no side effects.
    """

    def mark(cls: _C) -> _C:
        cls.type = type_string
        return cls

    return mark

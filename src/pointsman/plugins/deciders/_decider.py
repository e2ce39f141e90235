"""What deciders of stages have in common: they leave their judgement in the CycleState, and a profile handler asks it.

So a handler needs no other plugin in its hands, and the check that every consumed key has a producer finds a decider
that is not configured.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pointsman.api.endpoint import Endpoint
from pointsman.api.request import InferenceRequest
from pointsman.framework.plugin import DataProducer, P
from pointsman.framework.state import CycleState, StateKey

Judgement: TypeAlias = Callable[[InferenceRequest, Endpoint | None, CycleState], bool]


def judgement_key(decider: str) -> StateKey[Judgement]:
    """The key under which the decider of that name leaves its judgement."""
    return StateKey(f"stage-judgement/{decider}")


class StageDecider(DataProducer[P]):
    """Says whether a stage of a request is worth doing elsewhere."""

    @abstractmethod
    def wanted(self, request: InferenceRequest, decode: Endpoint | None, state: CycleState) -> bool:
        """Whether to do it there; ``decode`` is the endpoint that decodes, None while nobody has chosen it."""

    def produces(self) -> tuple[StateKey[Any], ...]:
        return (judgement_key(self.name),)

    def produce(self, request: InferenceRequest, endpoints: Sequence[Endpoint], state: CycleState) -> None:
        # the method and not its answer: most requests are asked about one endpoint, or none
        state.write(judgement_key(self.name), self.wanted)

"""Policies about models: what an objective's name means, and which model a request really goes to.

They come from Kubernetes (InferenceObjective, InferenceModelRewrite) or from a file of the same manifests. The order
is llm-d's: an exact match beats a rule for any model, then the oldest object wins, then its first rule. Weights are
given for all targets or for none, and without weight the choice is even. A rule beats the client's rewrite header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

import msgspec

from pointsman.api.request import InferenceRequest

DEFAULT_PRIORITY = 0
"""Of requests without an objective, with one that nobody defined, and of objectives that give none."""


class RewriteTarget(msgspec.Struct, frozen=True):
    """One model that a rule may choose. ``weight`` is relative to the rule's other targets; 0 for none given."""

    model: str
    weight: int = 0


class RewriteRule(msgspec.Struct, frozen=True):
    """One rule. No ``models`` means any model; there is at least one target."""

    source: str
    """Name of the object it is part of."""
    models: tuple[str, ...]
    targets: tuple[RewriteTarget, ...]

    def choose(self, rng: Random) -> str:
        """One of the targets, by weight; evenly when nothing has weight."""
        if len(self.targets) == 1:
            return self.targets[0].model
        total = sum(target.weight for target in self.targets)
        if total == 0:
            return self.targets[rng.randrange(len(self.targets))].model
        drawn = rng.randrange(total)
        for target in self.targets:
            drawn -= target.weight
            if drawn < 0:
                return target.model
        raise AssertionError("the weights add up to more than they are")


class ModelPolicies:
    """Objectives and rewrite rules, as of one moment. Immutable; a change is another object."""

    __slots__ = ("_any", "_exact", "objectives", "rules")

    def __init__(self, objectives: Mapping[str, int] | None = None, rules: Iterable[RewriteRule] = ()) -> None:
        """Put policies together.

        Args:
            objectives: priority by the objective's name; higher goes first, below 0 may be shed.
            rules: those of the oldest object first, within an object in its order.
        """
        self.objectives: Mapping[str, int] = dict(objectives or {})
        self.rules = tuple(rules)
        self._exact: dict[str, RewriteRule] = {}
        self._any: RewriteRule | None = None
        for rule in self.rules:
            for model in rule.models:
                self._exact.setdefault(model, rule)
            if not rule.models and self._any is None:
                self._any = rule

    def __bool__(self) -> bool:
        return bool(self.objectives or self.rules)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelPolicies):
            return NotImplemented
        return self.objectives == other.objectives and self.rules == other.rules

    __hash__ = None  # type: ignore[assignment] # it holds dicts

    def __repr__(self) -> str:
        return f"ModelPolicies({dict(self.objectives)!r}, {self.rules!r})"

    def rule(self, model: str) -> RewriteRule | None:
        """The rule that counts for a model, or None."""
        return self._exact.get(model, self._any)

    def resolve(self, model: str, rng: Random) -> str:
        """The model that a request for ``model`` goes to: itself when no rule counts."""
        rule = self.rule(model)
        return rule.choose(rng) if rule is not None else model

    def priority(self, objective: str) -> int:
        """An objective's priority; an unknown one is as good as none."""
        return self.objectives.get(objective, DEFAULT_PRIORITY)

    def apply(self, request: InferenceRequest, rng: Random) -> InferenceRequest:
        """A request with its priority and target model filled in; itself when nothing of that changes.

        A request that names no model (one without a body, or one that we cannot read) has none to rewrite.
        """
        if not self:
            return request
        priority = self.priority(request.objective)
        rule = self.rule(request.model) if request.model else None
        target = rule.choose(rng) if rule is not None else request.target_model
        if (priority, target) == (request.priority, request.target_model):
            return request
        return msgspec.structs.replace(request, priority=priority, target_model=target)

    def merged(self, other: ModelPolicies) -> ModelPolicies:
        """Both together; where they disagree, this one counts."""
        return ModelPolicies({**other.objectives, **self.objectives}, (*self.rules, *other.rules))


NO_POLICIES = ModelPolicies()

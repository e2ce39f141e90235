"""Objectives and rewrites that concern a pool, to policies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from pointsman.kube.objects import AnyObject, Objective, Pool, PoolRef, Rewrite, Rule, Selector
from pointsman.requestcontrol.policies import DEFAULT_PRIORITY, ModelPolicies, RewriteRule, RewriteTarget

_Policy = TypeVar("_Policy", Objective, Rewrite)


class PoolName:
    """Which pool's policies count. Without a name (a picker that has no InferencePool) all of the namespace do."""

    __slots__ = ("group", "labels", "name")

    def __init__(self, name: str, group: str, labels: Mapping[str, str] | None) -> None:
        """Name it.

        Args:
            name: the pool's; empty for any.
            group: its API group.
            labels: the pool's, for selectors; None while there is no such pool.
        """
        self.name, self.group, self.labels = name, group, labels

    def wants(self, item: Objective | Rewrite) -> bool:
        """Whether an object is about this pool."""
        if item.metadata.deletion_timestamp is not None:
            return False
        if not self.name:
            return True
        references, selector = _references(item)
        if any(reference.names(self.name, self.group) for reference in references):
            return True
        return selector is not None and self.labels is not None and selector.matches(self.labels)


def make_policies(
    pool: PoolName, objectives: Iterable[Iterable[Objective]], rewrites: Iterable[Iterable[Rewrite]]
) -> ModelPolicies:
    """Put together what counts for a pool.

    Args:
        pool: which.
        objectives: by API version, the one that counts first. Of objects with the same name the first that is about
            the pool is taken.
        rewrites: ditto.
    """
    chosen = _first_of_each_name(pool, objectives)
    priorities = {name: item.spec.priority for name, item in chosen.items()}
    rules = sorted(_first_of_each_name(pool, rewrites).values(), key=_age)
    return ModelPolicies(
        {name: DEFAULT_PRIORITY if priority is None else priority for name, priority in priorities.items()},
        [made for item in rules for rule in item.spec.rules for made in _rules(item.metadata.name, rule)],
    )


def pool_of(pool: Pool | None, name: str, group: str) -> PoolName:
    """A pool that may not exist yet."""
    return PoolName(name, group, pool.labels if pool is not None else None)


def _first_of_each_name(pool: PoolName, versions: Iterable[Iterable[_Policy]]) -> dict[str, _Policy]:
    found: dict[str, _Policy] = {}
    for version in versions:
        for item in version:
            if pool.wants(item):
                found.setdefault(item.metadata.name, item)
    return found


def _references(item: Objective | Rewrite) -> tuple[list[PoolRef], Selector | None]:
    single = [item.spec.pool_ref] if item.spec.pool_ref is not None else []
    if isinstance(item, Rewrite):
        return single, None
    return single + (item.spec.pool_refs or []), item.spec.pool_selector


def _age(item: AnyObject) -> tuple[str, str]:
    """Older first; of one second, by name."""
    return (item.metadata.creation_timestamp or "", item.metadata.name)


def _rules(source: str, rule: Rule) -> Iterator[RewriteRule]:
    """One rule, or two where the alternatives of its condition are of both kinds: each has its own precedence."""
    matches = rule.matches or ()
    models = tuple(match.model.value for match in matches if match.model is not None)
    targets = tuple(RewriteTarget(target.model_rewrite, target.weight or 0) for target in rule.targets)
    if models:
        yield RewriteRule(source, models, targets)
    if len(models) < len(matches) or not matches:
        yield RewriteRule(source, (), targets)

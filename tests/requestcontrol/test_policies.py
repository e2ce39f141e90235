from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import make_request

from pointsman.requestcontrol.policies import NO_POLICIES, ModelPolicies, RewriteRule, RewriteTarget


def _rule(*models: str, to: str = "", source: str = "r") -> RewriteRule:
    return RewriteRule(source, models, (RewriteTarget(to),))


def test_exact_beats_any_and_older_beats_younger() -> None:
    policies = ModelPolicies({}, [_rule(to="any-old"), _rule("a", to="a-old"), _rule("a", "b", to="ab"), _rule(to="x")])
    rng = Random(0)
    assert policies.resolve("a", rng) == "a-old"
    assert policies.resolve("b", rng) == "ab"
    assert policies.resolve("c", rng) == "any-old"


def test_a_model_without_a_rule_stays() -> None:
    policies = ModelPolicies({}, [_rule("a", to="b")])
    assert policies.resolve("c", Random(0)) == "c"
    # a target is not rewritten once more
    assert ModelPolicies({}, [_rule("a", to="b"), _rule("b", to="c")]).resolve("a", Random(0)) == "b"


def test_weights_are_kept() -> None:
    rule = RewriteRule("r", (), tuple(RewriteTarget(name, weight) for name, weight in (("x", 90), ("y", 10), ("z", 0))))
    rng = Random(1)
    drawn = Counter(rule.choose(rng) for _ in range(20_000))
    # 20,000 draws: three standard deviations of a 10 % share are 0.64 %
    assert drawn["y"] / 20_000 == pytest.approx(0.10, abs=0.0075)
    assert drawn["z"] == 0


def test_without_weights_the_choice_is_even() -> None:
    rule = RewriteRule("r", (), tuple(RewriteTarget(name) for name in "xyz"))
    rng = Random(1)
    drawn = Counter(rule.choose(rng) for _ in range(30_000))
    assert all(count / 30_000 == pytest.approx(1 / 3, abs=0.01) for count in drawn.values())
    assert len(drawn) == 3


@settings(deadline=None)
@given(st.lists(st.integers(0, 1_000_000), min_size=1, max_size=6), st.integers(0, 2**32))
def test_only_targets_with_weight_are_chosen(weights: list[int], seed: int) -> None:
    rule = RewriteRule("r", (), tuple(RewriteTarget(str(i), weight) for i, weight in enumerate(weights)))
    chosen = int(rule.choose(Random(seed)))
    assert weights[chosen] > 0 or sum(weights) == 0


def test_priority_of_an_objective() -> None:
    policies = ModelPolicies({"batch": -5, "chat": 10})
    rng = Random(0)
    assert policies.apply(make_request(objective="batch"), rng).priority == -5
    assert policies.apply(make_request(objective="chat"), rng).priority == 10
    assert policies.apply(make_request(objective="nobody's"), rng).priority == 0
    assert policies.apply(make_request(), rng).priority == 0


def test_a_rule_beats_the_rewrite_header() -> None:
    asked = make_request(model="a", target_model="from-the-header")
    rng = Random(0)
    assert ModelPolicies({}, [_rule("a", to="b")]).apply(asked, rng).target_model == "b"
    assert ModelPolicies({}, [_rule("z", to="b")]).apply(asked, rng).target_model == "from-the-header"


def test_nothing_to_change_is_the_same_request() -> None:
    rng = Random(0)
    request = make_request(model="a", target_model="a")
    assert NO_POLICIES.apply(request, rng) is request
    assert ModelPolicies({"o": 1}, [_rule("z", to="b")]).apply(request, rng) is request
    nameless = make_request(model="", target_model="")
    assert ModelPolicies({}, [_rule(to="b")]).apply(nameless, rng) is nameless


def test_merged_prefers_its_own() -> None:
    first = ModelPolicies({"a": 1}, [_rule("m", to="x")])
    second = ModelPolicies({"a": 2, "b": 3}, [_rule("m", to="y"), _rule("n", to="z")])
    both = first.merged(second)
    assert both.objectives == {"a": 1, "b": 3}
    assert both.resolve("m", Random(0)) == "x"
    assert both.resolve("n", Random(0)) == "z"
    assert both != first
    assert NO_POLICIES.merged(first) == first
    assert not NO_POLICIES
    assert first
    assert "'a': 1" in repr(first)
    assert first != "something else"

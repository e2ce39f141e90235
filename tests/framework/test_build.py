from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.builders import make_endpoint, make_endpoints, make_handle, make_request, make_state
from tests.framework.stubs import Witness, slots

from pointsman.api.result import SchedulingResult
from pointsman.errors import ConfigError, ConfigErrors
from pointsman.framework.build import Builder
from pointsman.framework.compat import BUILT_IN, NOT_YET
from pointsman.framework.loader import load_config, preset_names, read_source
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.plugin import CostScorer, DataProducer, Params, PluginSpec, ProfileHandler, Scorer, register
from pointsman.framework.registry import Registry, installed_plugins
from pointsman.framework.state import CycleState, StateKey

LLMD_SAMPLE = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: approx-prefix-cache-producer
  parameters: {maxPrefixTokensToMatch: 100000}
- type: prefix-cache-scorer
- type: no-hit-lru-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: no-hit-lru-scorer, weight: 2}
"""

HANDLE = make_handle()


class ChainParams(Params, frozen=True):
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


@register("chain")
class Chain(DataProducer[ChainParams]):
    """A producer that reads and writes what its parameters say."""

    def produces(self) -> tuple[StateKey[int], ...]:
        return tuple(map(StateKey, self.params.writes))

    def consumes(self) -> tuple[StateKey[int], ...]:
        return tuple(map(StateKey, self.params.reads))

    def produce(self, request: Any, endpoints: Any, state: CycleState) -> None:
        for key in self.produces():
            state.write(key, 1)


class OddParams(Params, frozen=True):
    when: str = ""
    needed: int = 0

    def __post_init__(self) -> None:
        if self.when == "params":
            raise KeyError("params")


@register("odd")
class Odd(Scorer[OddParams]):
    """A scorer that misbehaves at the moment its parameter names."""

    def setup(self) -> None:
        if self.params.when == "setup":
            raise RuntimeError("no room")

    def requires(self) -> Any:
        return {
            "requires": (PluginSpec("chain", "helper", {"writes": 7}),),
            "requires-unknown": (PluginSpec("chian", "helper"),),
            "requires-junk": ("chain",),
        }.get(self.params.when, ())

    def consumes(self) -> Any:
        if self.params.when == "consumes":
            raise RuntimeError("forgot")
        return "prefix" if self.params.when == "consumes-junk" else ()

    def score(self, request: Any, endpoints: Sequence[Any], state: CycleState) -> list[float]:
        return [0.0] * len(endpoints)


class PickyParams(Params, frozen=True):
    needed: int


@register("picky")
class Picky(Scorer[PickyParams]):
    def score(self, request: Any, endpoints: Sequence[Any], state: CycleState) -> list[float]:
        return [0.0] * len(endpoints)


@register("my-cost")
class MyCost(CostScorer[Params]):
    def cost(self, request: Any, endpoints: Sequence[Any], state: CycleState) -> list[float]:
        return [0.0] * len(endpoints)


@register("both-profiles")
class BothProfiles(ProfileHandler[Params]):
    def handle_profiles(self, request: Any, profiles: Sequence[str], run: Any, state: CycleState) -> SchedulingResult:
        return SchedulingResult(profiles[-1], {name: run(name) for name in profiles})


def registry() -> Registry:
    known = installed_plugins()
    for cls in (Chain, Odd, Picky, MyCost, BothProfiles):
        known.add(cls, "the test")
    return known


def build(text: str, source: str = "f.yaml", observer: Observer | None = None, previous: Plan | None = None) -> Plan:
    return Builder(load_config(text, source), registry(), HANDLE, observer or Observer(), previous).build()


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build(text)
    return str(caught.value)


class TestGood:
    def test_llmds_sample(self) -> None:
        plan = build(LLMD_SAMPLE)
        (profile,) = plan.scheduler.profiles.values()
        assert [(scorer.plugin.name, scorer.weight) for scorer in profile.scorers] == [
            ("queue-scorer", 2.0),
            ("kv-cache-utilization-scorer", 2.0),
            ("prefix-cache-scorer", 3.0),
            ("no-hit-lru-scorer", 2.0),
        ]
        assert (profile.picker.name, plan.scheduler.handler.name) == ("max-score-picker", "single-profile-handler")
        assert [producer.name for producer in plan.producers] == ["approx-prefix-cache-producer"]
        assert [key.name for key in plan.match_keys] == ["prefix-match/approx-prefix-cache-producer"]
        assert plan.notes == ()

    def test_and_it_chooses(self) -> None:
        pods = [make_endpoint(0, waiting=9), make_endpoint(1, waiting=0), make_endpoint(2, waiting=5)]
        result = build(LLMD_SAMPLE).scheduler.schedule(make_request(), pods, make_state())
        assert slots(result.targets)[0] == 1

    def test_without_profiles_one_has_every_plugin(self) -> None:
        types = ("queue-depth", "queue-scorer", "random-picker", "inflight-load-producer")
        text = "plugins:\n" + "".join(f"- type: {name}\n" for name in types)
        (profile,) = build(text).scheduler.profiles.values()
        names = [plugin.name for plugin in (*profile.filters, *(scorer.plugin for scorer in profile.scorers))]
        assert (profile.name, names, profile.picker.name) == (
            "default",
            ["queue-depth", "queue-scorer"],
            "random-picker",
        )

    def test_missing_producers_are_added_once(self) -> None:
        text = "plugins: [{type: prefix-cache-scorer}, {type: no-hit-lru-scorer}, {type: active-request-scorer}]"
        names = [producer.name for producer in build(text).producers]
        assert sorted(names) == ["approx-prefix-cache-producer", "inflight-load-producer"]

    def test_producers_stand_after_those_they_read(self) -> None:
        text = """\
plugins:
- {type: chain, name: c, parameters: {reads: [kb, ka], writes: [kc]}}
- {type: chain, name: b, parameters: {reads: [ka], writes: [kb]}}
- {type: chain, name: a, parameters: {writes: [ka]}}
"""
        assert [producer.name for producer in build(text).producers] == ["a", "b", "c"]

    def test_several_profiles_with_a_handler(self) -> None:
        text = """\
plugins: [{type: both-profiles}, {type: queue-scorer}, {type: random-picker}]
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: queue-scorer}]}
- {name: decode, plugins: [{pluginRef: random-picker}]}
"""
        scheduler = build(text).scheduler
        assert [profile.picker.name for profile in scheduler.profiles.values()] == ["max-score-picker", "random-picker"]
        assert scheduler.schedule(make_request(), make_endpoints(2), make_state()).primary == "decode"

    def test_fallback_is_handed_on(self) -> None:
        assert build("plugins: []\nfallback: refuse\n").scheduler.fallback == "refuse"

    def test_topk_and_parameters_of_selection_add_up(self) -> None:
        plan = build("scorers: []\nselection: {topK: 7, parameters: {mode: weighted}}\n")
        assert plan.effective()["plugins"][0]["parameters"] == {"topK": 7, "mode": "weighted", "margin": 0.1}


class TestNotes:
    @pytest.mark.parametrize("kind", sorted(BUILT_IN))
    def test_built_in_types_are_noted(self, kind: str) -> None:
        text = f"plugins: [{{type: {kind}, parameters: {{a: 1}}}}]\n"
        text += f"schedulingProfiles: [{{name: p, plugins: [{{pluginRef: {kind}}}]}}]\n"
        plan = build(text)
        assert plan.notes == (f"plugins: {kind}: {BUILT_IN[kind]}",)
        assert kind not in plan.plugins

    @pytest.mark.parametrize("kind", sorted(NOT_YET - set(installed_plugins())))
    def test_types_of_later_versions_are_refused_by_name(self, kind: str) -> None:
        assert refusal(f"plugins:\n- type: {kind}\n") == (
            f"f.yaml:2: plugins[0].type: {kind!r} is an llm-d plugin that this version of Pointsman does not have "
            "(`pointsman plugins` lists what there is)"
        )

    @pytest.mark.parametrize(
        ("text", "note"),
        [
            ("featureGates: [flowControl]", "featureGates: flowControl: flow control is not in this version"),
            ("featureGates: ['flowControl=true']", "featureGates: flowControl: "),
            ("featureGates: ['flowControl=false', haPopulateNonLeaderDatastore]", None),
            ("flowControl: {maxBytes: 1}", "flowControl: flow control is not in this version"),
            ("saturationDetector: {pluginRef: utilization-detector}", "saturationDetector: "),
            ("dataLayer: {discovery: {pluginRef: file-discovery}}", "dataLayer.discovery: give --endpoint"),
            ("dataLayer: {injectDefaults: true}\nrequestHandler: {parsers: [{pluginRef: openai-parser}]}", None),
        ],
    )
    def test_sections_without_effect(self, text: str, note: str | None) -> None:
        notes = build(text + "\nplugins: []\n").notes
        assert len(notes) == (note is not None)
        assert not note or notes[0].startswith(note)


GATES = "known: flowControl, haPopulateNonLeaderDatastore"
LIST = "`pointsman plugins` lists the known types"
ONE_KIND = "use only scorers or only *-cost plugins in one profile"
KEEP = "keep one profile, or add a handler"


def profile(*members: str) -> str:
    return "schedulingProfiles:\n- name: p\n  plugins:\n" + "".join(f"  - {{{member}}}\n" for member in members)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plugins:\n- type: zzz\n", f"f.yaml:2: plugins[0].type: unknown plugin type 'zzz' ({LIST})"),
        (
            "plugins:\n- name: x\n  type: queue-depht\n",
            (
                "f.yaml:3: plugins[0].type: unknown plugin type 'queue-depht' "
                "(did you mean 'queue-depth' or 'queue-scorer'?)"
            ),
        ),
        ("scorers:\n- type: zzz\n", f"f.yaml:2: scorers[0].type: unknown plugin type 'zzz' ({LIST})"),
        (
            "scorers: []\nselection:\n  type: zzz\n",
            f"f.yaml:3: selection.type: unknown plugin type 'zzz' ({LIST})",
        ),
        (
            "plugins:\n- type: queue-depth\n  parameters:\n    maxQueueLenght: 5\n",
            (
                "f.yaml:4: plugins[0].parameters.maxQueueLenght: unknown field `maxQueueLenght` "
                "(did you mean `maxQueueLength`?)"
            ),
        ),
        (
            "plugins:\n- type: queue-depth\n  parameters:\n    maxQueueLength: 0\n",
            "f.yaml:4: plugins[0].parameters.maxQueueLength: expected a whole number >= 1",
        ),
        (
            "filters:\n- type: queue-depth\n  maxQueueLength: many\n",
            "f.yaml:3: filters[0].maxQueueLength: expected a whole number, got a string",
        ),
        (
            "filters:\n- type: queue-depth\n  wieght: 5\n",
            "f.yaml:3: filters[0].wieght: unknown field `wieght` (did you mean `weight`?)",
        ),
        (
            "plugins:\n- {type: memory-pressure, parameters: {penaltyThreshold: 0.99}}\n",
            "f.yaml:2: plugins[0].parameters: penaltyThreshold is above maxKVUtilization",
        ),
        ("plugins:\n- type: picky\n", "f.yaml:2: plugins[0]: the required field `needed` is missing"),
        (
            "scorers: []\nselection:\n  topK: 3\n  type: max-score\n",
            "f.yaml:3: selection.topK: unknown field `topK` (known: `maxNumOfEndpoints`, `tieTolerance`)",
        ),
        (
            "plugins:\n- type: queue-scorer\n- type: queue-scorer\n",
            "f.yaml:3: plugins[1].type: two plugins are named 'queue-scorer' (give one of them another `name`)",
        ),
        (
            "plugins:\n- {type: queue-scorer, name: x}\n- {type: openai-parser, name: x}\n",
            "f.yaml:3: plugins[1].name: two plugins are named 'x' (give one of them another `name`)",
        ),
        (
            "plugins: [{type: queue-scorer}]\n" + profile("pluginRef: queue-scorrer"),
            (
                "f.yaml:5: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named 'queue-scorrer' "
                "(did you mean 'queue-scorer'?)"
            ),
        ),
        (
            "plugins: []\n" + profile("pluginRef: nothing-like-it"),
            "f.yaml:5: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named 'nothing-like-it'",
        ),
        (
            "plugins: [{type: queue-scorer}]\n" + profile("pluginRef: queue-scorer", "pluginRef: queue-scorer"),
            (
                "f.yaml:6: schedulingProfiles[0].plugins[1].pluginRef: profile 'p' names 'queue-scorer' twice "
                "(keep one, with the sum of weights)"
            ),
        ),
        (
            "plugins: [{type: random-picker}, {type: top-k}]\n"
            + profile("pluginRef: random-picker", "pluginRef: top-k"),
            "f.yaml:3: schedulingProfiles[0]: profile 'p' has 2 pickers: random-picker, top-k (keep one)",
        ),
        (
            "scorers:\n- type: random-picker\nselection: {topK: 1}\n",
            "f.yaml:1: profile 'default' has 2 pickers: random-picker, top-k (keep one)",
        ),
        (
            "plugins: [{type: queue-scorer}, {type: my-cost}]\n"
            + profile("pluginRef: queue-scorer", "pluginRef: my-cost"),
            f"f.yaml:3: schedulingProfiles[0]: profile 'p' mixes scores and costs in milliseconds ({ONE_KIND})",
        ),
        (
            "scorers: [{type: queue-scorer}, {type: my-cost}]\n",
            f"f.yaml:1: profile 'default' mixes scores and costs in milliseconds ({ONE_KIND})",
        ),
        (
            "schedulingProfiles:\n- name: a\n- name: b\n",
            f"f.yaml:1: schedulingProfiles: 2 profiles need a profile handler that chooses among them ({KEEP})",
        ),
        (
            "plugins: [{type: both-profiles}]\nschedulingProfiles:\n- name: a\n- name: a\n",
            "f.yaml:4: schedulingProfiles[1].name: two profiles are named 'a'",
        ),
        (
            "plugins: [{type: both-profiles}, {type: single-profile-handler}]\n",
            "f.yaml:1: plugins: 2 profile handlers: both-profiles, single-profile-handler (keep one)",
        ),
        (
            "plugins:\n- {type: queue-scorer, name: max-score-picker}\n",
            (
                "f.yaml:1: the plugin named 'max-score-picker' is no Picker, and the default one has "
                "that name (give it another `name`)"
            ),
        ),
        (
            "featureGates:\n- flowControll\n",
            f"f.yaml:2: featureGates[0]: unknown feature gate 'flowControll' ({GATES})",
        ),
        (
            "featureGates: ['flowControl=maybe']\n",
            f"f.yaml:1: featureGates[0]: unknown feature gate 'flowControl=maybe' ({GATES})",
        ),
        (
            "plugins: [{type: chain, parameters: {reads: [wanted], writes: [b, a]}}]\n",
            "f.yaml:1: plugins: plugin 'chain' needs 'wanted', which no plugin produces (produced: a, b)",
        ),
        (
            "plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: mine}}]\n",
            (
                "f.yaml:1: plugins: plugin 'prefix-cache-scorer' needs 'prefix-match/mine', which no plugin produces "
                "(produced: nothing)"
            ),
        ),
        (
            (
                "plugins:\n- {type: chain, name: a, parameters: {writes: [k]}}\n"
                "- {type: chain, name: b, parameters: {writes: [k]}}\n"
            ),
            "f.yaml:1: plugins: 'a' and 'b' both produce 'k' (keep one of them)",
        ),
        (
            "plugins: [{type: chain, parameters: {reads: [k], writes: [k]}}]\n",
            "f.yaml:1: plugins: producers need each other: chain → chain",
        ),
        (
            "pluginPaths:\n- absent.py\n",
            "f.yaml:2: pluginPaths[0]: plugin file absent.py cannot be read: No such file or directory",
        ),
    ],
)
def test_a_mistake_names_line_field_and_remedy(text: str, expected: str) -> None:
    assert refusal(text) == expected


def test_a_ring_of_producers() -> None:
    text = """\
plugins:
- {type: chain, name: a, parameters: {reads: [kc], writes: [ka]}}
- {type: chain, name: b, parameters: {reads: [ka], writes: [kb]}}
- {type: chain, name: c, parameters: {reads: [kb], writes: [kc]}}
"""
    assert refusal(text).startswith("f.yaml:1: plugins: producers need each other: ")


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("params", "the parameters of 'odd' cannot be read: KeyError: 'params'"),
        ("setup", "plugin 'odd' cannot be built: RuntimeError: no room"),
        ("requires", "plugin 'helper' is asked for wrongly: Expected `array`, got `int` - at `$.writes`"),
        ("requires-unknown", "unknown plugin type 'chian' (did you mean 'chain'?)"),
        ("requires-junk", "'odd': requires() must return a tuple of PluginSpec, got ('chain',)"),
        ("consumes", "'odd': consumes() failed: RuntimeError: forgot"),
        ("consumes-junk", "'odd': consumes() must return a tuple of StateKey, got ('p', 'r', 'e', 'f', 'i', 'x')"),
    ],
)
def test_a_plugin_that_misbehaves_while_loading_is_named(when: str, expected: str) -> None:
    text = refusal(f"plugins:\n- {{type: odd, parameters: {{when: {when}}}}}\n")
    assert text.startswith("f.yaml:")
    assert text.endswith(expected)


@pytest.mark.parametrize("method", ["check", "main_profile"])
def test_a_handler_that_breaks_while_it_is_checked_is_named(method: str) -> None:
    broken = type("Broken", (BothProfiles,), {"type": "broken", method: lambda *_: 1 / 0})
    known = registry()
    known.add(broken, "the test")
    text = "plugins: [{type: broken}]\nschedulingProfiles: [{name: a, plugins: []}]\n"
    with pytest.raises(ConfigError, match=r"plugin 'broken': check\(\) or main_profile\(\) failed: ZeroDivisionError"):
        Builder(load_config(text, "f.yaml"), known, HANDLE, Observer()).build()


class TestSeveral:
    def test_each_with_its_line(self) -> None:
        text = """\
featureGates: [nope]
plugins:
- type: nope
- type: queue-depth
  parameters: {maxQueueLength: -1}
- type: request-attribute-reporter
pluginPaths:
- absent.py
"""
        with pytest.raises(ConfigErrors) as caught:
            build(text)
        assert [(error.line, error.field) for error in caught.value.errors] == [
            (8, "pluginPaths[0]"),
            (1, "featureGates[0]"),
            (3, "plugins[0].type"),
            (5, "plugins[1].parameters.maxQueueLength"),
            (6, "plugins[2].type"),
        ]
        assert str(caught.value).splitlines() == [str(error) for error in caught.value.errors]

    def test_profiles_and_handlers_too(self) -> None:
        text = """\
plugins: [{type: both-profiles}, {type: single-profile-handler}]
schedulingProfiles:
- {name: a, plugins: [{pluginRef: one}, {pluginRef: two}]}
- {name: a}
"""
        with pytest.raises(ConfigErrors) as caught:
            build(text)
        assert [error.field for error in caught.value.errors] == [
            "schedulingProfiles[0].plugins[0].pluginRef",
            "schedulingProfiles[0].plugins[1].pluginRef",
            "schedulingProfiles[1].name",
            "plugins",
        ]


class TestEffective:
    @pytest.mark.parametrize("name", preset_names())
    def test_of_a_preset_loads_again_to_the_same(self, name: str) -> None:
        plan = build(*read_source(name))
        self.assert_loads_again(plan)

    @pytest.mark.parametrize(
        "text",
        [
            LLMD_SAMPLE,
            "filters: [{type: memory-pressure, weight: 3}]\nselection: {type: random}\nfallback: refuse\n",
            "plugins: [{type: queue-depth, name: b}, {type: model-compatibility, name: a}, {type: tokenizer}]",
            "plugins: []\nfeatureGates: [flowControl]\nflowControl: {maxBytes: 1}\nmetadata: {name: x}\n",
        ],
    )
    def test_of_others_too(self, text: str) -> None:
        self.assert_loads_again(build(text))

    def test_shows_defaults_and_what_was_added(self) -> None:
        data = build("scorers: [{type: prefix-cache-scorer, weight: 3}]\n").effective()
        assert data["plugins"][-1]["name"] == "approx-prefix-cache-producer"
        assert data["plugins"][-1]["parameters"]["blockSizeTokens"] == 16
        assert data["schedulingProfiles"] == [
            {
                "name": "default",
                "plugins": [{"pluginRef": "prefix-cache-scorer", "weight": 3.0}, {"pluginRef": "max-score-picker"}],
            }
        ]

    @staticmethod
    def assert_loads_again(plan: Plan) -> None:
        data = plan.effective()
        again = build(yaml.safe_dump(data, sort_keys=False))
        assert again.effective() == data
        assert list(again.plugins) == list(plan.plugins)


USER_PLUGIN = """\
from pointsman.framework.plugin import Params, Scorer, register

class FewestDigits(Params, frozen=True):
    bonus: float = 1.0

@register("low-slot")
class LowSlot(Scorer[FewestDigits]):
    def score(self, request, endpoints, state):
        return [self.params.bonus / (1 + e.slot) for e in endpoints]
"""


class TestUserPlugin:
    CONFIG = """\
pluginPaths: [my/low_slot.py]
scorers:
- {type: low-slot, weight: 4, bonus: 0.5}
- {type: queue-scorer}
"""

    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        (tmp_path / "my").mkdir()
        (tmp_path / "my" / "low_slot.py").write_text(USER_PLUGIN)
        path = tmp_path / "f.yaml"
        path.write_text(self.CONFIG)
        return path

    def plan(self, config: Path, observer: Observer | None = None) -> Plan:
        return build(config.read_text(), str(config), observer)

    def test_found_beside_the_configuration_and_asked(self, config: Path) -> None:
        plan = self.plan(config)
        assert plan.files == (str(config.parent / "my" / "low_slot.py"),)
        result = plan.scheduler.schedule(make_request(), make_endpoints(3), make_state())
        (run,) = result.profiles.values()
        assert result.chosen.slot == 0
        assert run.terms[0].values == pytest.approx((2.0, 1.0, 2 / 3))

    def test_its_exception_costs_its_own_say_only(self, config: Path) -> None:
        (config.parent / "my" / "low_slot.py").write_text(USER_PLUGIN.replace("1 + e.slot", "0"))
        seen = Witness()
        pods = [make_endpoint(0, waiting=9), make_endpoint(1, waiting=1)]
        result = self.plan(config, seen).scheduler.schedule(make_request(), pods, make_state())
        (run,) = result.profiles.values()
        assert result.chosen.slot == 1, "the queue still counts"
        assert [terms.plugin for terms in run.terms] == ["queue-scorer"]
        assert seen.failed == [("low-slot", "score")]

    def test_its_parameters_are_checked(self, config: Path) -> None:
        config.write_text(self.CONFIG.replace("bonus", "bonsu"))
        with pytest.raises(ConfigError) as caught:
            self.plan(config)
        assert str(caught.value) == (f"{config}:3: scorers[0].bonsu: unknown field `bonsu` (did you mean `bonus`?)")

    def test_a_syntax_error_names_the_plugin_file(self, config: Path) -> None:
        path = config.parent / "my" / "low_slot.py"
        path.write_text(USER_PLUGIN.replace("def score", "dfe score"))
        with pytest.raises(ConfigErrors) as caught:
            self.plan(config)
        first, second = caught.value.errors
        assert (first.source, first.line, first.field) == (str(path), 8, "pluginPaths[0]")
        assert second.message == "unknown plugin type 'low-slot'"


class TestPrevious:
    def test_same_plugin_is_carried_over_and_a_changed_one_is_not(self) -> None:
        old = build(LLMD_SAMPLE)
        new = build(LLMD_SAMPLE.replace("100000", "50000").replace("weight: 3", "weight: 9"), previous=old)
        producer = "approx-prefix-cache-producer"
        assert new.plugins["queue-scorer"] is old.plugins["queue-scorer"]
        assert new.plugins[producer] is not old.plugins[producer]
        assert [scorer.weight for scorer in new.scheduler.profiles["default"].scorers] == [2.0, 2.0, 9.0, 2.0]

    def test_another_type_under_the_same_name_is_new(self) -> None:
        old = build("plugins: [{type: queue-scorer, name: x}]")
        new = build("plugins: [{type: running-requests-size-scorer, name: x}]", previous=old)
        assert new.plugins["x"].type == "running-requests-size-scorer"

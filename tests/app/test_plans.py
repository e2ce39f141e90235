from __future__ import annotations

from pathlib import Path

import pytest
from tests.builders import make_endpoints, make_handle, make_request, make_state
from tests.framework.stubs import Witness

from pointsman.app.plans import PlanKeeper
from pointsman.errors import ConfigError, ConfigErrors
from pointsman.framework.loader import preset_names
from pointsman.framework.plan import Plan
from pointsman.latency.model import LATENCY_PROFILES
from pointsman.requestcontrol.planning import build_plan

PRODUCER = "approx-prefix-cache-producer"
CONFIG = """\
plugins:
- type: queue-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
"""

PLUGIN = """\
from pointsman.framework.plugin import Params, Scorer, register

@register("mine")
class Mine(Scorer[Params]):
    def score(self, request, endpoints, state):
        return [0.25 for _ in endpoints]
"""


class Desk:
    """A keeper over files in a folder, and what it handed on."""

    def __init__(self, folder: Path, config: str = CONFIG, plugin: str | None = None) -> None:
        self.config = folder / "f.yaml"
        self.plugin = folder / "mine.py"
        self.config.write_text(config)
        if plugin is not None:
            self.plugin.write_text(plugin)
        self.used: list[Plan] = []
        self.seen = Witness()
        self.keeper = PlanKeeper(str(self.config), make_handle(), self.seen, self.used.append)

    def rewrite(self, config: str) -> bool:
        self.config.write_text(config)
        return self.keeper.reload()

    def scores(self) -> list[tuple[float, ...]]:
        result = self.keeper.plan.scheduler.schedule(make_request(), make_endpoints(2), make_state())
        return [terms.values for terms in result.profiles[result.primary].terms]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def with_plugin(tmp_path: Path) -> Desk:
    return Desk(tmp_path, "pluginPaths: [mine.py]\nscorers: [{type: mine}, {type: queue-scorer}]\n", PLUGIN)


class TestBuildPlan:
    @pytest.mark.parametrize("name", preset_names())
    def test_presets(self, name: str) -> None:
        plan = build_plan(name, make_handle())
        assert plan.source == f"preset:{name}"
        assert plan.notes == ()
        assert plan.scheduler.schedule(make_request(), make_endpoints(2), make_state()).targets

    def test_an_unknown_latency_profile(self, desk: Desk) -> None:
        desk.config.write_text(CONFIG + "latencyProfile: abacus\n")
        with pytest.raises(ConfigError) as caught:
            build_plan(str(desk.config), make_handle())
        assert str(caught.value) == (
            f"{desk.config}:9: latencyProfile: unknown latency profile 'abacus' "
            f"(one of {', '.join(sorted(LATENCY_PROFILES))}, or a file that pointsman calibrate wrote)"
        )

    def test_a_keeper_of_a_bad_file_does_not_start(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="unknown field `plugin`"):
            Desk(tmp_path, "plugin: []\n")


class TestReload:
    def test_new_weights_and_the_same_prefix_index(self, desk: Desk) -> None:
        old = desk.keeper.plan
        assert desk.rewrite(CONFIG.replace("weight: 3", "weight: 7"))
        plan = desk.keeper.plan
        assert [scorer.weight for scorer in plan.scheduler.profiles["default"].scorers] == [2.0, 7.0]
        assert plan is not old
        assert plan.plugins[PRODUCER] is old.plugins[PRODUCER]
        assert plan.producers == [old.plugins[PRODUCER]]
        assert desk.used == [plan]
        assert desk.seen.loaded == [True]

    def test_changed_parameters_build_a_new_producer(self, desk: Desk) -> None:
        old = desk.keeper.plan
        explicit = f"plugins:\n- {{type: {PRODUCER}, parameters: {{blockSizeTokens: 128}}}}\n"
        assert desk.rewrite(CONFIG.replace("plugins:\n", explicit, 1))
        assert desk.keeper.plan.plugins[PRODUCER] is not old.plugins[PRODUCER]

    def test_written_out_with_the_same_parameters_it_is_kept(self, desk: Desk) -> None:
        old = desk.keeper.plan
        assert desk.rewrite(CONFIG.replace("plugins:\n", f"plugins:\n- type: {PRODUCER}\n", 1))
        assert desk.keeper.plan.plugins[PRODUCER] is old.plugins[PRODUCER]

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            ("plugins: [\n", "not valid YAML"),
            ("", "the file is empty"),
            (CONFIG.replace("weight: 3", "weight: -3"), "expected a number >= 0"),
            (CONFIG.replace("type: queue-scorer", "type: queue-scorrer"), "unknown plugin type 'queue-scorrer'"),
            (CONFIG + "latencyProfile: abacus\n", "unknown latency profile 'abacus'"),
            (CONFIG + "pluginPaths: [mine.py]\n", "cannot be read"),
        ],
    )
    def test_a_bad_file_is_refused_and_the_old_plan_stays(self, desk: Desk, bad: str, message: str) -> None:
        old = desk.keeper.plan
        assert not desk.rewrite(bad)
        assert desk.keeper.plan is old
        assert message in str(desk.keeper.error)
        assert str(desk.config) in str(desk.keeper.error)
        assert desk.used == []
        assert desk.seen.loaded == [False]

    def test_mended_it_counts_again(self, desk: Desk) -> None:
        desk.rewrite("plugins: [\n")
        assert desk.rewrite(CONFIG)
        assert desk.keeper.error is None
        assert desk.seen.loaded == [False, True]

    def test_a_missing_file_is_refused(self, desk: Desk) -> None:
        old = desk.keeper.plan
        desk.config.unlink()
        assert not desk.keeper.reload()
        assert desk.keeper.plan is old
        assert "no such file or preset" in str(desk.keeper.error)

    def test_an_old_failure_leaves_no_half_carried_plugins(self, desk: Desk) -> None:
        old = desk.keeper.plan
        desk.rewrite(CONFIG.replace("queue-scorer, weight: 2", "nope, weight: 2"))
        assert desk.rewrite(CONFIG)
        assert desk.keeper.plan.plugins["queue-scorer"] is old.plugins["queue-scorer"]


class TestPluginFiles:
    def test_changed_is_reloaded_as_a_new_class(self, with_plugin: Desk) -> None:
        old = with_plugin.keeper.plan
        assert with_plugin.scores()[0] == (0.25, 0.25)
        with_plugin.plugin.write_text(PLUGIN.replace("0.25", "0.75"))
        assert with_plugin.keeper.reload()
        new = with_plugin.keeper.plan
        assert with_plugin.scores()[0] == (0.75, 0.75)
        assert type(new.plugins["mine"]) is not type(old.plugins["mine"])
        assert new.plugins["queue-scorer"] is old.plugins["queue-scorer"]

    def test_unchanged_is_carried_over(self, with_plugin: Desk) -> None:
        old = with_plugin.keeper.plan
        assert with_plugin.keeper.reload()
        assert with_plugin.keeper.plan.plugins["mine"] is old.plugins["mine"]

    def test_a_syntax_error_names_file_and_line_and_the_old_class_stays(self, with_plugin: Desk) -> None:
        with_plugin.plugin.write_text(PLUGIN.replace("def score", "def def score"))
        assert not with_plugin.keeper.reload()
        error = with_plugin.keeper.error
        assert isinstance(error, ConfigErrors)
        assert (error.errors[0].source, error.errors[0].line) == (str(with_plugin.plugin), 5)
        assert "SyntaxError" in str(error)
        assert with_plugin.scores()[0] == (0.25, 0.25)

    @pytest.mark.parametrize("declare", ["requires", "consumes"])
    def test_a_declaration_that_raises_is_refused_like_any_mistake(self, with_plugin: Desk, declare: str) -> None:
        with_plugin.plugin.write_text(PLUGIN + f"\n    def {declare}(self):\n        raise RuntimeError('oops')\n")
        assert not with_plugin.keeper.reload()
        assert f"'mine': {declare}() failed: RuntimeError: oops" in str(with_plugin.keeper.error)
        assert with_plugin.scores()[0] == (0.25, 0.25)


class TestFiles:
    def test_of_a_file_are_itself_and_its_plugins(self, with_plugin: Desk) -> None:
        assert with_plugin.keeper.files() == [with_plugin.config, with_plugin.plugin]

    def test_of_a_preset_there_are_none(self) -> None:
        assert PlanKeeper("brief", make_handle(), Witness(), lambda plan: None).files() == []


class TestWatching:
    def test_a_plugin_file_named_by_a_refused_version_is_watched_too(self, desk: Desk) -> None:
        broken = desk.config.parent / "broken.py"
        broken.write_text("def (")
        assert not desk.rewrite("pluginPaths: [broken.py]\n" + CONFIG)
        assert desk.keeper.files() == [desk.config, broken]
        broken.write_text(PLUGIN)
        assert desk.keeper.reload()

    def test_the_shadow_s_file_belongs_to_them_also_when_it_was_refused(self, desk: Desk, tmp_path: Path) -> None:
        shadow = tmp_path / "shadow.yaml"
        shadow.write_text("scorers: [{type: no-such}]")
        desk.config.write_text(CONFIG + "shadow: shadow.yaml\n")
        assert not desk.keeper.reload()
        assert desk.keeper.files() == [desk.config, shadow]
        shadow.write_text("scorers: [{type: queue-scorer}]")
        assert desk.keeper.reload()
        assert desk.keeper.files() == [desk.config, shadow]
        desk.config.write_text(CONFIG + "shadow: round-robin\n")
        assert desk.keeper.reload()
        assert desk.keeper.files() == [desk.config]

"""A second configuration beside the one that decides."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.builders import make_endpoints
from tests.requestcontrol.rig import Rig, chosen, write_config

from pointsman.errors import ConfigError
from pointsman.requestcontrol.planning import build_plan
from pointsman.requestcontrol.shadow import Shadow

TWO: dict[str, Any] = {
    "plugins": [{"type": "round-robin-picker"}, {"type": "max-score-picker"}, {"type": "queue-scorer"}],
    "schedulingProfiles": [
        {"name": "live", "plugins": [{"pluginRef": "round-robin-picker"}]},
        {"name": "other", "plugins": [{"pluginRef": "queue-scorer"}, {"pluginRef": "max-score-picker"}]},
    ],
}
LONG = "a long prompt that many ask about " * 60


def config(folder: Path, name: str = "config.yaml", **fields: Any) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(fields))
    return path


def with_shadow(folder: Path, shadow: str, **fields: Any) -> Path:
    return config(folder, scorers=[], selection={"type": "round-robin-picker"}, shadow=shadow, **fields)


def looks(rig: Rig) -> dict[str, float]:
    found = {result: rig.count("shadow_decisions_total", result=result) for result in
             ("same", "differs", "skipped", "failed")}  # fmt: skip
    return {result: count for result, count in found.items() if count}


def test_decisions_are_those_of_the_plan_in_force(tmp_path: Path) -> None:
    alone, shadowed = Rig("round-robin"), Rig(with_shadow(tmp_path, "random"))
    assert [chosen(alone.ask()) for _ in range(20)] == [chosen(shadowed.ask()) for _ in range(20)]
    assert sum(looks(shadowed).values()) == 20
    assert looks(shadowed)["differs"] > 5


def test_it_judges_by_the_ledger_without_the_request_itself(tmp_path: Path) -> None:
    """Both take the pod with the least in flight; were the request counted where it went, they would always differ."""
    pods = make_endpoints(2)
    config(tmp_path, "other.yaml", scorers=[{"type": "active-request-scorer"}])
    rig = Rig(with_shadow(tmp_path, "other.yaml"), pods)
    assert [chosen(rig.ask()) for _ in range(6)] == ["default/pod-0", "default/pod-1"] * 3
    assert rig.metrics.records.last(1)[0].shadow is not None
    assert looks(rig) == {"same": 6}


def test_cost_profiles_say_what_they_expect_to_save(tmp_path: Path) -> None:
    rig = Rig(with_shadow(tmp_path, "default"), make_endpoints(2))
    rig.ask(LONG)
    rig.clock.advance(60)
    record = rig.ask(LONG).decision.record
    assert record.chosen == "default/pod-1"
    assert record.shadow is not None
    assert record.shadow.chosen == "default/pod-0"
    assert record.shadow.gain > 10
    assert record.shadow.reason == "uncached-prefill-cost"
    assert rig.count("shadow_predicted_gain_total", unit="ms") == pytest.approx(record.shadow.gain)
    assert rig.count("shadow_differences_total", reason="uncached-prefill-cost") == 1
    assert record.view()["shadow"]["chosen"] == "default/pod-0"


def test_a_profile_of_the_same_file_may_be_the_shadow(tmp_path: Path) -> None:
    busy = make_endpoints(2, waiting=50)
    idle = make_endpoints(4, waiting=0)
    rig = Rig(config(tmp_path, **TWO, shadow="other"), [*busy, *idle[2:]])
    exchange = rig.ask()
    assert chosen(exchange) == "default/pod-0"
    assert exchange.decision.record.profile == "live"
    shadow = exchange.decision.record.shadow
    assert shadow is not None
    assert shadow.chosen in {"default/pod-2", "default/pod-3"}
    assert (shadow.unit, shadow.reason) == ("score", "queue-scorer")
    effective = rig.plan.effective()
    assert build_plan(str(config(tmp_path, "again.yaml", **effective)), rig.handle).effective() == effective


def test_another_file_is_found_beside_the_configuration(tmp_path: Path) -> None:
    config(tmp_path, "other.yaml", scorers=[{"type": "queue-scorer"}])
    path = with_shadow(tmp_path, "other.yaml")
    rig = Rig(path)
    rig.ask()
    assert sum(looks(rig).values()) == 1
    assert str(tmp_path / "other.yaml") in rig.plan.files


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scorers": [], "shadow": "defualt"}, r"config.yaml:2: shadow: no profile, file or preset is named 'defualt'"),
        ({"schedulingProfiles": [{"name": "default"}], "shadow": "default"}, "only profile.*preset:default"),
        ({"scorers": [], "shadowShare": 1.5}, "shadowShare"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_shadow_is_refused_with_its_line(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Rig(config(tmp_path, **fields))


def test_a_mistake_in_the_shadow_names_its_own_file(tmp_path: Path) -> None:
    config(tmp_path, "other.yaml", scorers=[{"type": "queue-scoer"}])
    with pytest.raises(ConfigError, match=r"other.yaml:2: .*queue-scoer"):
        Rig(with_shadow(tmp_path, "other.yaml"))


BROKEN = """
from pointsman.framework.plugin import Params, Scorer, register

@register("broken-scorer")
class Broken(Scorer[Params]):
    def score(self, request, endpoints, state):
        raise RuntimeError("no")
"""


def test_a_shadow_that_fails_is_counted_and_nobody_notices(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_config(other, ["broken-scorer"], code=BROKEN)
    rig = Rig(with_shadow(tmp_path, "other/config.yaml"))
    assert chosen(rig.ask()) == "default/pod-0"
    assert looks(rig) == {"failed": 1}
    assert rig.count("plugin_errors_total", plugin="shadow/broken-scorer", point="score") == 1
    assert rig.count("fallbacks_total", reason="picker-error") == 0


def test_one_that_would_refuse_differs(tmp_path: Path) -> None:
    config(tmp_path, "other.yaml", filters=[{"type": "queue-depth", "maxQueueLength": 1}], fallback="refuse")
    rig = Rig(with_shadow(tmp_path, "other.yaml"), make_endpoints(2, waiting=9))
    shadow = rig.ask().decision.record.shadow
    assert shadow is not None
    assert shadow.reason == "refuses: saturated"
    assert looks(rig) == {"differs": 1}


def test_only_a_share_is_looked_at_but_all_is_learnt_from(tmp_path: Path) -> None:
    rig = Rig(with_shadow(tmp_path, "default", shadowShare=0.0), make_endpoints(2))
    rig.ask(LONG)
    rig.clock.advance(60)
    assert looks(rig) == {"skipped": 1}
    shadow = rig.plan.shadow
    assert isinstance(shadow, Shadow)
    shadow._share = 1.0
    record = rig.ask(LONG).decision.record
    assert record.shadow is not None
    assert (record.shadow.chosen, record.shadow.reason) == ("default/pod-0", "uncached-prefill-cost")


def test_producers_that_both_have_are_run_once(tmp_path: Path) -> None:
    live = yaml.safe_load((Path(__file__).parents[2] / "src/pointsman/presets/default.yaml").read_text())
    rig = Rig(config(tmp_path, **live, shadow="preset:default"), make_endpoints(2))
    for _ in range(3):
        rig.ask(LONG).end("complete")
    shadow = rig.plan.shadow
    assert isinstance(shadow, Shadow)
    assert looks(rig) == {"same": 3}
    assert shadow._own == []
    told = [getattr(observer, "name", "?") for observer in shadow._told.pick]
    assert told == ["adapter-load-cost"], "scorers are the shadow's own, and so is what they remember"


def test_on_a_loop_it_waits_until_the_answer_is_out(tmp_path: Path) -> None:
    rig = Rig(with_shadow(tmp_path, "default"))

    async def rounds(count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def ask() -> None:
        first = rig.ask(LONG)
        await rounds(1)
        assert first.decision.record.shadow is None, "a decision that had to wait is answered in this round"
        await rounds(1)
        assert first.decision.record.shadow is not None
        second, third = rig.ask(LONG), rig.ask(LONG)
        await rounds(2)
        assert second.decision.record.shadow is None, "the ledger has moved on"
        assert third.decision.record.shadow is not None
        assert looks(rig)["skipped"] == 1

    asyncio.run(ask())


def test_a_removed_endpoint_is_forgotten(tmp_path: Path) -> None:
    pods = make_endpoints(2)
    rig = Rig(with_shadow(tmp_path, "default"), pods)
    rig.ask(LONG)
    rig.director.endpoint_removed(pods[0])
    rig.clock.advance(60)
    record = rig.ask(LONG).decision.record
    assert record.shadow is not None
    assert record.shadow.reason in {"", "tie"}, "nobody is believed to hold it any more"


def test_a_reload_keeps_what_it_has_learnt(tmp_path: Path) -> None:
    rig = Rig(with_shadow(tmp_path, "default"), make_endpoints(2))
    rig.ask(LONG)
    rig.clock.advance(60)
    again = build_plan(str(with_shadow(tmp_path, "default", pickBudget=99)), rig.handle, rig.metrics, rig.plan)
    rig.director.replace_plan(again)
    rig.ask("something else")
    rig.clock.advance(60)
    record = rig.ask(LONG).decision.record
    assert record.shadow is not None
    assert record.shadow.chosen == "default/pod-0"

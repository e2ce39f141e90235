"""Every filter and scorer of llm-d's in a file as its users write it: it loads, and what it means loads again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pointsman.app.picker import check_config
from pointsman.errors import ConfigError
from pointsman.framework.compat import BUILT_IN, NOT_YET
from pointsman.framework.registry import installed_plugins

PLUGINS = """
- {type: label-selector-filter,
  parameters: {matchLabels: {hardware-type: H100}, matchExpressions: [{key: tier, operator: NotIn, values: [batch]}]}}
- {type: by-label-selector, parameters: {matchLabels: {hardware-type: H100}}}
- {type: by-label, parameters: {label: llm-d.ai/role, validValues: [decode, both], allowsNoLabel: true}}
- {type: encode-filter}
- {type: prefill-filter}
- {type: decode-filter}
- {type: prefix-cache-affinity-filter,
  parameters: {affinityThreshold: 0.8, maxTTFTPenaltyMs: 18000, peakPrefillThroughput: 15928}}
- {type: prefix-cache-affinity-filter, parameters: {ttftSource: latencyPredictor}}
- {type: slo-headroom-tier-filter, parameters: {epsilonExploreNeg: 0.05}}
- {type: session-affinity-filter}
- {type: session-affinity-filter,
  parameters: {strategy: session_id, sessionIdConfig: {
    sources: [{header: x-session-id}], evictionTtlSeconds: 300, evictionSweepSeconds: 10}}}
- {type: session-affinity-scorer, parameters: {encodedEndpointHeaderConfig: {header: x-sticky}}}
- {type: endpoint-attribute-filter,
  parameters: {attribute: num_requests_running, onMissing: Pass, fallbackOnEmpty: true,
    algorithm: {type: threshold, threshold: {operator: LessThan, value: 10}}}}
- {type: endpoint-attribute-scorer,
  parameters: {attribute: num_requests_waiting,
    algorithm: {type: linear_lower_is_better, normalization: {fixedRange: {min: 0, max: 50}}}}}
- {type: topology-affinity-filter, parameters: {minAffinity: rack}}
- {type: topology-affinity-scorer}
- {type: utilization-filter,
  parameters: {conditions: [{metric: active-requests, maxValue: 64}, {metric: kv-cache-utilization, maxValue: 0.9}],
    fallbackOnEmpty: true}}
- {type: context-length-aware, parameters: {enableFiltering: true}}
- {type: load-aware-scorer, parameters: {threshold: 64}}
- {type: token-load-scorer, parameters: {queueThresholdTokens: 1000000}}
- {type: latency-scorer, parameters: {ttftWeight: 0.7, tpotWeight: 0.3, headroomSelectionStrategy: most}}
- {type: header-label-affinity-scorer, parameters: {headerName: x-zone, labelKey: zone, stampResponseHeader: false}}
- {type: precise-prefix-cache-scorer, parameters: {kvEventsConfig: {topicFilter: 'kv@'}}}
"""

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

GUIDE = f"""{HEAD}plugins:
- type: inflight-load-producer
- type: approx-prefix-cache-producer
  parameters: {{maxPrefixTokensToMatch: 40960}}
- type: prefix-cache-affinity-filter
- type: token-load-scorer
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: prefix-cache-affinity-filter
  - pluginRef: token-load-scorer
"""


@pytest.mark.parametrize("entry", yaml.safe_load(PLUGINS), ids=lambda entry: entry["type"])
def test_loads_and_loads_again(entry: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "llm-d.yaml"
    profile = {"name": "default", "plugins": [{"pluginRef": entry["type"]}]}
    file.write_text(HEAD + yaml.safe_dump({"plugins": [entry], "schedulingProfiles": [profile]}))
    plan = check_config(str(file))
    assert plan.plugins[entry["type"]].type == entry["type"]
    assert not plan.notes
    file.write_text(yaml.safe_dump(plan.effective()))
    assert check_config(str(file)).effective() == plan.effective()


def test_the_guides_default(tmp_path: Path) -> None:
    """llm-d's "sticky until saturated", as its guides install it."""
    file = tmp_path / "guide.yaml"
    file.write_text(GUIDE)
    plan = check_config(str(file))
    (profile,) = plan.scheduler.profiles.values()
    assert [plugin.type for plugin in profile.filters] == ["prefix-cache-affinity-filter"]
    assert [scorer.plugin.type for scorer in profile.scorers] == ["token-load-scorer"]


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            "{type: session-affinity-scorer, parameters: {strategy: session_id, "  # noqa: ISC004
            "sessionIdConfig: {sources: [{attribute: agent-identity}]}}}",
            "'session-affinity-scorer' needs 'request-attribute/agent-identity', which no plugin produces",
        ),
        ("{type: token-load-scorer, parameters: {inFlightLoadProducerName: mine}}", "needs 'inflight-load/mine'"),
        ("{type: topology-affinity-scorer, parameters: {topologyProducerName: mine}}", "needs 'topology-labels/mine'"),
        ("{type: endpoint-attribute-filter, parameters: {attribute: a}}", "algorithm must be given"),
        (
            "{type: endpoint-attribute-scorer, parameters: {attribute: a, producer: dcgm-extractor, "  # noqa: ISC004
            "algorithm: {type: linear_lower_is_better}}}",
            "parameters.producer: there is no 'dcgm-extractor' here",
        ),
        ("{type: utilization-filter}", "conditions must hold at least one"),
        ("{type: utilization-filter, parameters: {conditions: [{metric: gpu, maxValue: 1}]}}", "conditions[0].metric"),
    ],
)
def test_what_cannot_work_is_refused_at_once(plugin: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "llm-d.yaml"
    file.write_text(f"{HEAD}plugins:\n- {plugin}\n")
    with pytest.raises(ConfigError) as refused:
        check_config(str(file))
    assert message in str(refused.value)


class TestPage:
    """docs/llm-d-plugins.md says what the program does."""

    ROWS = re.findall(
        r"^\| (`.*?) \| (yes|built in|no) \|",
        (Path(__file__).parents[2] / "docs/llm-d-plugins.md").read_text(),
        re.MULTILINE,
    )

    def types(self, verdict: str) -> set[str]:
        cells = " ".join(cell for cell, found in self.ROWS if found == verdict)
        return {name for name in re.findall(r"`([^`]+)`", cells) if "*" not in name}

    def test_yes_is_there(self) -> None:
        assert self.types("yes") <= set(installed_plugins())
        assert len(self.types("yes")) > 50

    def test_no_is_refused_by_name(self) -> None:
        assert self.types("no") == NOT_YET - set(installed_plugins())

    def test_built_in_is_noted(self) -> None:
        assert self.types("built in") <= set(BUILT_IN) | set(installed_plugins())

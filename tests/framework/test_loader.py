from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest

from pointsman.api.config import API_VERSIONS
from pointsman.errors import ConfigError
from pointsman.framework.loader import LoadedConfig, load_config, preset_names, read_source

LONG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: approx-prefix-cache-producer
  name: prefix
  parameters: {maxPrefixTokensToMatch: 1000}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
"""

SHORT = """\
filters:
  - type: queue-depth
    maxQueueLength: 7
scorers:
  - type: prefix-aware
    weight: 100
    parameters:
      hashBlockSize: 5
selection:
  topK: 3
"""


def load(text: str) -> LoadedConfig:
    return load_config(text, "f.yaml")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return str(caught.value)


def in_helm(text: str) -> str:
    return "replicas: 2\ninferenceExtension:\n  image: x\n  pluginsCustomConfig:\n" + indent(text, "    ")


def in_helm_text(text: str, name: str = "my.yaml") -> str:
    return in_helm(f"{name}: |\n" + indent(text, "  "))


class TestLongForm:
    @pytest.mark.parametrize("version", API_VERSIONS)
    def test_api_versions(self, version: str) -> None:
        loaded = load(LONG.replace("llm-d.ai/v1alpha1", version))
        assert loaded.config.api_version == version
        assert bool(loaded.notes) == (version == "inference.networking.x-k8s.io/v1alpha1")

    def test_the_old_version_is_noted(self) -> None:
        notes = load(LONG.replace("llm-d.ai/", "inference.networking.x-k8s.io/")).notes
        assert notes == ("apiVersion inference.networking.x-k8s.io/v1alpha1 is deprecated, write llm-d.ai/v1alpha1",)

    def test_where_things_stand(self) -> None:
        loaded = load(LONG)
        assert loaded.entry_paths == (("plugins", 0), ("plugins", 1))
        assert loaded.parameter_path(1, ("maxPrefixTokensToMatch",)) == (
            "plugins",
            1,
            "parameters",
            "maxPrefixTokensToMatch",
        )
        assert loaded.profile_path(0, "plugins", 0) == ("schedulingProfiles", 0, "plugins", 0)
        assert loaded.document.line(loaded.entry_paths[1]) == 5

    def test_fields_of_ours(self) -> None:
        text = "pluginPaths: [a.py]\nfallback: refuse\nobserveShare: 1\npickBudget: 5\nlatencyProfile: x\n"
        config = load(LONG + text).config
        assert (config.plugin_paths, config.fallback, config.latency_profile) == (["a.py"], "refuse", "x")
        assert (config.observe_share, config.pick_budget) == (1.0, 5.0)

    def test_json_is_yaml(self) -> None:
        assert load('{"plugins": [{"type": "queue-scorer"}]}').config.plugins[0].type == "queue-scorer"

    def test_a_byte_order_mark_is_no_mistake(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        path.write_bytes(b"\xef\xbb\xbf" + LONG.encode())
        assert load_config(*read_source(str(path))).config == load(LONG).config


class TestShortForm:
    def test_becomes_one_profile(self) -> None:
        config = load(SHORT).config
        assert [(plugin.type, plugin.parameters) for plugin in config.plugins] == [
            ("queue-depth", {"maxQueueLength": 7}),
            ("prefix-aware", {"hashBlockSize": 5}),
            ("top-k", {"topK": 3}),
        ]
        (profile,) = config.scheduling_profiles
        assert profile.name == "default"
        assert [(member.plugin_ref, member.weight) for member in profile.plugins] == [
            ("queue-depth", 50.0),
            ("prefix-aware", 100.0),
            ("top-k", None),
        ]

    def test_where_parameters_stand(self) -> None:
        loaded = load(SHORT)
        assert loaded.short
        assert loaded.parameter_path(0, ("maxQueueLength",)) == ("filters", 0, "maxQueueLength")
        assert loaded.parameter_path(1, ("hashBlockSize",)) == ("scorers", 0, "parameters", "hashBlockSize")
        assert loaded.parameter_path(2, ("topK",)) == ("selection", "topK")
        assert loaded.profile_path(0, "plugins") == ()

    def test_names_tell_equal_types_apart(self) -> None:
        config = load("scorers: [{type: a, name: one}, {type: a, name: two, weight: 3}]").config
        assert [plugin.name for plugin in config.plugins] == ["one", "two", None]
        assert [member.plugin_ref for member in config.scheduling_profiles[0].plugins][:2] == ["one", "two"]

    def test_inline_and_nested_mean_the_same(self) -> None:
        inline, nested = "{type: a, x: {y: [1]}}", "{type: a, parameters: {x: {y: [1]}}}"
        assert load(f"scorers: [{inline}]").config == load(f"scorers: [{nested}]").config

    @pytest.mark.parametrize(
        ("selection", "picker", "parameters"),
        [
            (None, "max-score-picker", {}),
            ("{}", "max-score-picker", {}),
            ("{topK: 5}", "top-k", {"topK": 5}),
            ("{topK: 5, parameters: {mode: weighted}}", "top-k", {"mode": "weighted", "topK": 5}),
            ("{type: max-score}", "max-score-picker", {}),
            ("{type: random}", "random-picker", {}),
            ("{type: weighted-random}", "weighted-random-picker", {}),
            ("{type: round-robin}", "round-robin-picker", {}),
            ("{type: of-mine, parameters: {x: 1}}", "of-mine", {"x": 1}),
        ],
    )
    def test_selection(self, selection: str | None, picker: str, parameters: dict[str, object]) -> None:
        text = "scorers: []\n" + (f"selection: {selection}\n" if selection else "")
        plugin = load(text).config.plugins[-1]
        assert (plugin.type, plugin.parameters) == (picker, parameters)

    def test_settings_are_carried_along(self) -> None:
        text = SHORT + "fallback: refuse\nobserveShare: 0.5\npickBudget: 9\nlatencyProfile: x\npluginPaths: [p.py]\n"
        config = load(text).config
        assert (config.fallback, config.observe_share, config.pick_budget) == ("refuse", 0.5, 9.0)
        assert (config.latency_profile, config.plugin_paths) == ("x", ["p.py"])


class TestHelmValues:
    @pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
    @pytest.mark.parametrize("wrap", [in_helm, in_helm_text], ids=["mapping", "text"])
    def test_both_forms_in_both_ways(self, text: str, wrap: object) -> None:
        assert callable(wrap)
        assert load(wrap(text)).config == load(text).config

    def test_a_line_in_a_mapping_is_the_files(self) -> None:
        text = in_helm(LONG.replace("kind: Endpoint", "kind: Entpoint"))
        where = "inferenceExtension.pluginsCustomConfig.kind"
        assert refusal(text).startswith(f"f.yaml:6: {where}: unknown kind 'EntpointPickerConfig'")

    def test_a_line_in_a_text_is_the_texts(self) -> None:
        text = in_helm_text(LONG.replace("kind: Endpoint", "kind: Entpoint"))
        assert refusal(text).startswith("f.yaml#my.yaml:2: kind: unknown kind")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("inferenceExtension: {}", "f.yaml:1: inferenceExtension: these Helm values hold no pluginsCustomConfig"),
            (
                "inferenceExtension: {pluginsCustomConfig: {a.yaml: 'x: 1', b.yaml: 'x: 1'}}",
                "f.yaml:1: inferenceExtension.pluginsCustomConfig: several files: a.yaml, b.yaml (keep the one to use)",
            ),
            (
                "inferenceExtension:\n  pluginsCustomConfig:\n",
                (
                    "f.yaml:2: inferenceExtension.pluginsCustomConfig: there is no configuration in it "
                    "(`pointsman config show default` prints a start)"
                ),
            ),
            (
                "inferenceExtension:\n  pluginsCustomConfig: 'plugins: []'\n",
                "f.yaml:2: inferenceExtension.pluginsCustomConfig: expected a mapping, got text",
            ),
            ("pluginsCustomConfig: {a.yaml: '[1]'}", "f.yaml#a.yaml:1: expected a mapping, got a list"),
            ("pluginsCustomConfig: {a.yaml: 'a: [1'}", "f.yaml#a.yaml:2: not valid YAML: "),
        ],
    )
    def test_nothing_usable(self, text: str, expected: str) -> None:
        assert refusal(text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f.yaml: the file is empty (`pointsman config show default` prints a start)"),
        ("- a\n", "f.yaml:1: expected a mapping, got a list"),
        ("just words\n", "f.yaml:1: expected a mapping, got text"),
        ("7\n", "f.yaml:1: expected a mapping, got a number"),
        ("yes\n", "f.yaml:1: expected a mapping, got true or false"),
        (
            LONG.replace("v1alpha1", "v2"),
            (
                "f.yaml:1: apiVersion: unknown apiVersion 'llm-d.ai/v2' "
                "(one of llm-d.ai/v1alpha1, llm-d.ai/v1, inference.networking.x-k8s.io/v1alpha1)"
            ),
        ),
        (
            LONG.replace("EndpointPickerConfig", "Deployment"),
            "f.yaml:2: kind: unknown kind 'Deployment' (expected EndpointPickerConfig)",
        ),
        (
            LONG + "featureGate: [x]\n",
            "f.yaml:12: featureGate: unknown field `featureGate` (did you mean `featureGates`?)",
        ),
        (
            LONG.replace("weight: 2", "wait: 2"),
            "f.yaml:11: schedulingProfiles[0].plugins[0].wait: unknown field `wait` (did you mean `weight`?)",
        ),
        (
            LONG.replace("weight: 2", "weight: -2"),
            "f.yaml:11: schedulingProfiles[0].plugins[0].weight: expected a number >= 0.0",
        ),
        (
            LONG.replace("weight: 2", "weight: heavy"),
            "f.yaml:11: schedulingProfiles[0].plugins[0].weight: expected a number or null, got a string",
        ),
        (LONG.replace("weight: 2", "weight: .nan"), "f.yaml:11: not a finite number: .nan"),
        (
            LONG.replace("- type: queue-scorer", "- name: x"),
            "f.yaml:4: plugins[0]: the required field `type` is missing",
        ),
        (
            LONG + "fallback: refuze\n",
            "f.yaml:12: fallback: unknown value 'refuze' (did you mean `refuse`?)",
        ),
        (
            "scorers:\n- {weight: 1}\n",
            "f.yaml:2: scorers[0].type: expected the plugin's type (such as `type: queue-depth`)",
        ),
        ("scorers:\n- {type: a, weight: -1}\n", "f.yaml:2: scorers[0].weight: expected a number >= 0, got -1"),
        ("scorers:\n- {type: a, name: 7}\n", "f.yaml:2: scorers[0].name: expected a string"),
        ("scorers:\n- {type: a, parameters: 7}\n", "f.yaml:2: scorers[0].parameters: expected a mapping"),
        (
            "scorers:\n- type: a\n  x: 1\n  parameters: {y: 2}\n",
            "f.yaml:3: scorers[0].x: parameters stand both beside `type` and under `parameters` (keep one place)",
        ),
        ("scorers: []\nselection:\n  topK: 0\n", "f.yaml:3: selection.topK: expected a whole number >= 1"),
        (
            "scorers: []\nselektion: {}\n",
            "f.yaml:2: selektion: unknown field `selektion` (did you mean `selection`?)",
        ),
    ],
)
def test_a_mistake_names_line_field_and_remedy(text: str, expected: str) -> None:
    assert refusal(text) == expected


class TestSource:
    @pytest.mark.parametrize("name", preset_names())
    def test_presets_load(self, name: str) -> None:
        text, source = read_source(name)
        assert source == f"preset:{name}"
        assert load_config(text, source).config.plugins

    def test_presets(self) -> None:
        assert preset_names() == ["brief", "default", "least-request", "llm-d", "precise", "random", "round-robin"]

    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        path.write_text(SHORT)
        assert read_source(str(path)) == (SHORT, str(path))

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("breif", "breif: no such file or preset (did you mean the preset 'brief'?)"),
            (
                "zzz",
                (
                    "zzz: no such file or preset "
                    "(presets: brief, default, least-request, llm-d, precise, random, round-robin)"
                ),
            ),
            (".", ".: cannot be read: Is a directory"),
        ],
    )
    def test_nothing_to_read(self, name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError) as caught:
            read_source(name)
        assert str(caught.value) == expected

    def test_binary(self, tmp_path: Path) -> None:
        path = tmp_path / "f.yaml"
        path.write_bytes(b"\xff\xfe\x00\x80")
        with pytest.raises(ConfigError) as caught:
            read_source(str(path))
        assert str(caught.value) == f"{path}: not UTF-8 text"

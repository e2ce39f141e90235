"""Whatever a file holds, it is loaded or refused with a ConfigError that names it; nothing else ever escapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_handle

from pointsman.api.config import EndpointPickerConfig, ShortConfig
from pointsman.errors import ConfigError
from pointsman.framework.build import Builder
from pointsman.framework.loader import load_config, preset_names, read_source
from pointsman.framework.observer import Observer
from pointsman.framework.plan import Plan
from pointsman.framework.registry import installed_plugins
from pointsman.requestcontrol.planning import build_plan

HANDLE = make_handle()
REGISTRY = installed_plugins()
SOURCE = "some/odd file.yaml"

# What cannot stand where such a value is wanted, as YAML writes it.
WRONG: dict[str, list[str]] = {
    "string": ["7", "1.5", "true", "[a]", "{a: 1}"],
    "name": ["''", "7", "[]", "x" * 201],
    "strings": ["7", "x", "{a: 1}", "[7]", "[[a]]", "[null]"],
    "flag": ["7", "x", "[]", "'true'"],
    "number": ["x", "true", "[]", "{}", "-1", "'1'", ".nan", "-.inf", "1.0e+400", "0x", "1" + "0" * 400, "1_0e"],
    "mapping": ["7", "x", "[a]", "true"],
    "reference": ["7", "x", "[a]", "{}", "{pluginRef: 7}", "{pluginRef: ''}", "{pluginRef: a, b: 1}"],
    "list": ["7", "x", "{a: 1}", "[7]", "[x]", "[null]", "[[]]", "[{}]", "[{nope: 1}]", "[{type: a, name: [b]}]"],
}

ONE = "plugins: [{type: queue-scorer%s}]"
PROFILE = "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer%s}]}]"
PROMETHEUS = "prometheus: {url: 'http://p', %s}"
FIELDS = [
    ("apiVersion: %s", "string"),
    ("kind: %s", "string"),
    ("metadata: %s", "mapping"),
    ("featureGates: %s", "strings"),
    ("plugins: %s", "list"),
    ("plugins: [{type: %s}]", "name"),
    (ONE % ", name: %s", "name"),
    (ONE % ", parameters: %s", "mapping"),
    ("plugins: []\nschedulingProfiles: %s", "list"),
    ("schedulingProfiles: [{name: %s}]", "name"),
    ("schedulingProfiles: [{name: p, plugins: %s}]", "list"),
    ("schedulingProfiles: [{name: p, plugins: [{pluginRef: %s}]}]", "name"),
    (PROFILE % ", weight: %s", "number"),
    ("dataLayer: %s", "mapping"),
    ("dataLayer: {injectDefaults: %s}", "flag"),
    ("dataLayer: {sources: %s}", "list"),
    ("dataLayer: {sources: [{pluginRef: a, extractors: %s}]}", "list"),
    ("dataLayer: {discovery: %s}", "mapping"),
    ("dataLayer: {peerDiscovery: %s}", "reference"),
    ("dataLayer: {crossReplicaSyncInterval: %s}", "string"),
    ("flowControl: %s", "mapping"),
    ("requestHandler: %s", "mapping"),
    ("requestHandler: {parsers: %s}", "list"),
    ("requestHandler: {propagatePriority: %s}", "flag"),
    ("saturationDetector: %s", "mapping"),
    ("parser: %s", "reference"),
    ("pluginPaths: %s", "strings"),
    ("prometheus: %s", "mapping"),
    ("scorers: []\nprometheus: {url: %s}", "name"),
    (PROMETHEUS % "periodSeconds: %s", "number"),
    (PROMETHEUS % "deadlineSeconds: %s", "number"),
    (PROMETHEUS % "maxAgeSeconds: %s", "number"),
    (PROMETHEUS % "selector: %s", "string"),
    (PROMETHEUS % "window: %s", "name"),
    (PROMETHEUS % "queries: %s", "mapping"),
    (PROMETHEUS % "queries: {waiting: %s}", "string"),
    (PROMETHEUS % "bearerTokenFile: %s", "name"),
    (PROMETHEUS % "passwordFile: p, username: %s", "name"),
    (PROMETHEUS % "username: u, passwordFile: %s", "name"),
    (PROMETHEUS % "caFile: %s", "name"),
    ("fallback: %s", "string"),
    ("latencyProfile: %s", "name"),
    ("latencyFit: %s", "flag"),
    ("latencyPerPod: %s", "flag"),
    ("observeShare: %s", "number"),
    ("pickBudget: %s", "number"),
    ("shadow: %s", "name"),
    ("shadowShare: %s", "number"),
    ("filters: %s", "list"),
    ("scorers: %s", "list"),
    ("scorers: [{type: %s}]", "name"),
    ("scorers: [{type: queue-scorer, name: %s}]", "string"),
    ("scorers: [{type: queue-scorer, weight: %s}]", "number"),
    ("scorers: [{type: queue-scorer, parameters: %s}]", "mapping"),
    ("scorers: []\nselection: %s", "mapping"),
    ("scorers: []\nselection: {topK: %s}", "number"),
    ("scorers: []\nselection: {type: %s}", "name"),
    ("scorers: []\nselection: {parameters: %s}", "mapping"),
    ("inferenceExtension: {pluginsCustomConfig: %s}", "mapping"),
]

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = {
    "empty": "",
    "comment": "# nothing\n",
    "nothing": "null\n",
    "word": "hello\n",
    "number": "3.5\n",
    "list": "- type: queue-scorer\n",
    "two-documents": "plugins: []\n---\nplugins: []\n",
    "tab-indent": "plugins:\n\t- type: queue-scorer\n",
    "bad-indent": "plugins:\n  - type: a\n - type: b\n",
    "unclosed-list": "plugins: [\n",
    "unclosed-quote": "kind: 'Endpoint\n",
    "unknown-alias": "plugins: *nothing\n",
    "alias-of-itself": "plugins: &p [*p]\n",
    "bomb": BOMB,
    "deep-list": "plugins: " + "[" * 5000 + "]" * 5000 + "\n",
    "deep-map": "metadata: " + "{a: " * 200 + "1" + "}" * 200 + "\n",
    "deep-json": '{"plugins": ' * 100 + "1" + "}" * 100,
    "many-values": "metadata: {a: [" + "1," * 300_000 + "]}\n",
    "duplicate-key": "plugins: []\nplugins: []\n",
    "duplicate-parameter": "plugins: [{type: queue-depth, parameters: {maxQueueLength: 1, maxQueueLength: 2}}]\n",
    "number-as-key": "7: x\n",
    "list-as-key": "? [a]\n: x\n",
    "null-key": "~: x\n",
    "python-tag": "plugins: !!python/object/apply:os.system ['true']\n",
    "binary-tag": "kind: !!binary aGVsbG8=\n",
    "set-tag": "plugins: !!set {a, b}\n",
    "int-tag": "pickBudget: !!int x\n",
    "date-tag": "kind: !!timestamp 2024-01-01\n",
    "huge-int": "pickBudget: " + "9" * 10_000 + "\n",
    "control-characters": "kind: \x07\n",
    "nul": "kind: a\x00b\n",
    "binary": "\x7fELF\x02\x01\x01\x00\x00",
    "surrogate": "kind: \ud800\n",
    "unknown-directive": "%FOO\n%YAML 9.9\n---\nplugins: []\n",
    "markup": "<html><body>404</body></html>\n",
    "python": "import os\nprint(os)\n",
    "toml": "[plugins]\ntype = 'queue-scorer'\n",
    "mixed-forms": "plugins: []\nscorers: []\n",
    "snake-case": "scheduling_profiles: []\n",
    "upper-case": "Plugins: []\n",
    "kubernetes-list": "apiVersion: v1\nkind: List\nitems: []\n",
    "config-map": "apiVersion: v1\nkind: ConfigMap\ndata: {a.yaml: 'plugins: []'}\n",
    "helm-twice": "inferenceExtension: {pluginsCustomConfig: {inferenceExtension: {}}}\n",
    "helm-null": "inferenceExtension:\n",
    "helm-bad-text": "inferenceExtension: {pluginsCustomConfig: {a.yaml: '{'}}\n",
    "nul-in-plugin-path": 'pluginPaths: ["a\\0.py"]\n',
    "plugin-path-is-folder": "pluginPaths: ['.']\n",
    "plugin-path-too-long": "pluginPaths: ['" + "x" * 180 + "/" + "y" * 300 + "']\n",
    "self-reference": "schedulingProfiles: [{name: default, plugins: [{pluginRef: default}]}]\n",
}


def parameters() -> Iterator[tuple[str, str]]:
    """Every parameter of every plugin with what it cannot be, and one that does not exist."""
    for name in REGISTRY:
        fields = [field.encode_name for field in msgspec.structs.fields(REGISTRY.get(name).Params)]
        for field in [*fields, "noSuchParameter"]:
            for value in ("[1, [2]]", "{a: 1}", "-.inf"):
                yield f"{name}.{field}={value}", f"plugins: [{{type: {name}, parameters: {{{field}: {value}}}}}]"


CASES = {
    **{f"{template} {value[:20]}": template % value for template, kind in FIELDS for value in WRONG[kind]},
    **TEXTS,
    **dict(parameters()),
}


def build(text: str) -> Plan:
    return Builder(load_config(text, SOURCE), REGISTRY, HANDLE, Observer()).build()


@pytest.mark.parametrize("name", CASES)
def test_malformed_is_refused_and_names_the_file(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(CASES[name])
    first = str(caught.value).splitlines()[0]
    assert SOURCE in first
    assert len(first) < 1000, "a message is for reading"


def test_there_are_many_and_no_field_is_forgotten() -> None:
    assert len(CASES) > 300
    for struct in (EndpointPickerConfig, ShortConfig):
        for field in msgspec.structs.fields(struct):
            assert any(template.startswith(f"{field.encode_name}:") or f"\n{field.encode_name}:" in template
                       for template, _ in FIELDS), field.encode_name  # fmt: skip


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 100, bytes(range(256)), "kind: ü".encode("latin-1")])
def test_bytes_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        build_plan(str(path), HANDLE)
    assert str(path) in str(caught.value)


DAMAGE = ["", "\t", "  ", ":", "- ", "{", "]", "'", "&a ", "*a", "0", "\n", "é"]


def load_or_refuse(text: str) -> None:
    """Any other exception fails the test."""
    with suppress(ConfigError):
        build(text)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_preset_loads_or_is_refused(name: str, seed: int) -> None:
    rng = Random(f"{name} {seed}")
    text = list(read_source(name)[0])
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text))
        text[at : at + rng.randint(0, 3)] = rng.choice(
            ["", "\t", "  ", ":", "- ", "{", "]", "'", "&a ", "0", "\n", "é"]
        )
    load_or_refuse("".join(text))


KEYS = st.sampled_from(["plugins", "type", "name", "parameters", "weight", "scorers", "selection", "topK", "pluginRef"])
WORDS = st.sampled_from(["queue-scorer", "queue-depth", "top-k", "a", "", "single-profile-handler"])
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS)
VALUES: st.SearchStrategy[Any] = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(KEYS | st.sampled_from(["schedulingProfiles", "fallback", "filters"]), VALUES, max_size=4))
def test_any_data_loads_or_is_refused(data: dict[str, Any]) -> None:
    load_or_refuse(yaml.safe_dump(data))

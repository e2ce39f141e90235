from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.errors import ConfigError
from pointsman.kube.manifests import MAX_FILE_BYTES, parse_policies

GOOD = """\
# a comment before the first document
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: chat, namespace: inference}
spec:
  priority: 10
  poolRef: {name: pool}
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -5}
--- # of another kind
apiVersion: apps/v1
kind: Deployment
metadata: {name: vllm}
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: first}
spec:
  rules:
  - matches: [{model: {type: Exact, value: small}}]
    targets: [{modelRewrite: small-v1}]
---
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: second}
spec:
  rules:
  - matches: [{model: {value: small}}, {model: {value: large}}]
    targets: [{modelRewrite: large-v1, weight: 1}, {modelRewrite: large-v2, weight: 0}]
---
"""


def test_a_good_file() -> None:
    policies = parse_policies(GOOD, "p.yaml")
    assert policies.objectives == {"chat": 10, "batch": -5}
    rng = Random(0)
    assert policies.resolve("small", rng) == "small-v1"
    assert policies.resolve("large", rng) == "large-v1"
    assert policies.resolve("other", rng) == "other"


def test_windows_line_ends_and_an_empty_file() -> None:
    assert parse_policies(GOOD.replace("\n", "\r\n"), "p.yaml") == parse_policies(GOOD, "p.yaml")
    assert not parse_policies("", "p.yaml")
    assert not parse_policies("---\n---\n# nothing\n---", "p.yaml")


OBJECTIVE = "---\napiVersion: llm-d.ai/v1\nkind: InferenceObjective\nmetadata: {name: a}\n"
REWRITE = "---\napiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata: {name: a}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OBJECTIVE + "spec: {prioriy: 1}", "p.yaml:5: spec.prioriy: 'prioriy' is not a known field"),
        (OBJECTIVE + "spec:\n  priority: high", "p.yaml:6: spec.priority"),
        (OBJECTIVE + OBJECTIVE, "p.yaml:8: metadata.name: there are two"),
        (
            "---\napiVersion: llm-d.ai/v1\nkind: InferenceObjectiv\n",
            "p.yaml:3: kind: 'InferenceObjectiv' is not a kind",
        ),
        ("---\napiVersion: example/v1\nkind: InferenceObjective\n", "p.yaml:2: apiVersion: the group 'example'"),
        ("kind: InferenceObjective\n", "begins with apiVersion and kind"),
        ("- a list\n", "begins with apiVersion and kind"),
        (REWRITE + "spec:\n  rules:\n  - {targets: []}", "p.yaml:7: spec.rules"),
        (REWRITE + "spec:\n  rules:\n  - targets: [{modelRewrite: a, wait: 1}]", r"spec.rules\[0\].targets\[0\].wait"),
        (REWRITE + "spec:\n  rules:\n  - targets: [{modelRewrite: a, weight: 1}, {modelRewrite: b}]", "or to none"),
        ("a: [", "not valid YAML"),
        ("#" * (MAX_FILE_BYTES + 1), "larger than"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_policies(text, "p.yaml")


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "---",
                "kind: InferenceObjective",
                "apiVersion: llm-d.ai/v1",
                "  - x",
                "metadata: {name: a}",
                "spec: {",
                "}",
                "spec: []",
                "\x00",
                "...",
            ]
        ),
        max_size=12,
    )
)
def test_anything_else_is_refused_as_a_configuration(lines: list[str]) -> None:
    with suppress(ConfigError):
        assert not parse_policies("\n".join(lines), "p.yaml").rules

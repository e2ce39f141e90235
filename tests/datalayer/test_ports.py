from __future__ import annotations

import pytest

from pointsman.datalayer.datastore import DRAIN_LABEL
from pointsman.datalayer.discovery import parse_endpoints_file
from pointsman.datalayer.ports import active_ports, by_rank
from pointsman.errors import ConfigError

NEW, OLD = "llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"


@pytest.mark.parametrize(
    ("facts", "ports"),
    [
        ({}, (8000, 8001, 8002)),
        ({NEW: "8002, 8000"}, (8000, 8002)),
        ({OLD: "8001"}, (8001,)),
        ({NEW: "8000", OLD: "8001"}, (8000,)),
        ({NEW: "8000,9999,"}, (8000,)),
        ({NEW: ""}, ()),
    ],
)
def test_active_ports(facts: dict[str, str], ports: tuple[int, ...]) -> None:
    assert active_ports(facts, [8000, 8001, 8002]) == ports


@pytest.mark.parametrize("text", ["http", "8000;8001", "-1", "123456", "٣"])
def test_active_ports_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no list of ports"):
        active_ports({NEW: text}, [8000])


def test_ranks_keep_their_numbers() -> None:
    specs = by_rank("p", "10.0.0.1", [8000, 8001, 8002], namespace="n", labels={NEW: "8002,8001", "role": "x"})
    assert [(spec.id, spec.port) for spec in specs] == [("n/p-rank-1", 8001), ("n/p-rank-2", 8002)]
    assert all(spec.labels["role"] == "x" for spec in specs)


def test_ports_in_a_file() -> None:
    text = """
endpoints:
- {name: a, address: 10.0.0.1, ports: [8000, "8001"], labels: {llm-d.ai/role: decode}}
- {name: b, address: 10.0.0.1, port: 8002, drain: true}
- {name: c, address: 10.0.0.2, ports: [8000], drain: false}
"""
    specs = parse_endpoints_file(text, "e.yaml")
    assert [(spec.id, spec.port) for spec in specs] == [
        ("default/a-rank-0", 8000),
        ("default/a-rank-1", 8001),
        ("default/b", 8002),
        ("default/c-rank-0", 8000),
    ]
    assert dict(specs[1].labels) == {"llm-d.ai/role": "decode"}
    assert dict(specs[2].labels) == {DRAIN_LABEL: "true"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{name: b, address: 10.0.0.2, ports: [1], port: 2}", "ports: port and ports are both given"),
        ("{name: b, address: 10.0.0.2, ports: []}", "expected 1 to 8 different ports"),
        ("{name: b, address: 10.0.0.2, ports: [1, '1']}", "different ports"),
        ("{name: b, address: 10.0.0.2, ports: [1,2,3,4,5,6,7,8,9]}", "1 to 8"),
        ("{name: b, address: 10.0.0.2, ports: [0]}", "ports: port 0 is not"),
        ("{name: b, address: 10.0.0.2, ports: 8000}", "ports"),
        ("{name: b, address: 10.0.0.9, ports: [1, 2]}", "10.0.0.9 port 1 is also the place of endpoints[0]"),
        ("{name: a, address: 10.0.0.2, ports: [1, 2]}", ""),
        ("{name: b, address: 10.0.0.2, port: 1, drain: 1}", "drain"),
        ("{name: b, address: 10.0.0.2, ports: [1], labels: {llm-d.ai/active-ports: x}}", "is no list of ports"),
    ],
)
def test_entries_refused(entry: str, words: str) -> None:
    text = f"endpoints:\n- {{name: a, address: 10.0.0.9, port: 1}}\n- {entry}\n"
    if not words:
        assert len(parse_endpoints_file(text, "e.yaml")) == 3, "a and a-rank-0 are two names"
        return
    with pytest.raises(ConfigError) as caught:
        parse_endpoints_file(text, "e.yaml")
    assert words in str(caught.value)
    assert caught.value.line == 3

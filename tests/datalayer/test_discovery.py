from __future__ import annotations

import json
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.datalayer.datastore import EndpointSpec
from pointsman.datalayer.discovery import parse_endpoint_urls, parse_endpoints_file, resolve_host
from pointsman.errors import ConfigError

GOOD = """\
# as in llm-d's documentation: the port is a string there
endpoints:
  - name: vllm-0
    address: "10.0.0.1"
    port: "8000"
    labels:
      model-id: llama
      llm-d.ai/role: decode
  - {name: vllm-1, namespace: inference, address: 10.0.0.2, port: 8001}
  - {name: six, address: "FD00::0:1", port: 8000}
"""


def test_good_file() -> None:
    assert parse_endpoints_file(GOOD, "e.yaml") == [
        EndpointSpec(
            name="vllm-0", address="10.0.0.1", port=8000, labels={"model-id": "llama", "llm-d.ai/role": "decode"}
        ),
        EndpointSpec(name="vllm-1", namespace="inference", address="10.0.0.2", port=8001),
        EndpointSpec(name="six", address="fd00::1", port=8000),
    ]


def test_json_and_same_name_in_two_namespaces() -> None:
    entries = [{"name": "a", "namespace": ns, "address": f"10.0.0.{n}", "port": 1} for n, ns in enumerate("xy", 1)]
    assert [spec.id for spec in parse_endpoints_file(json.dumps({"endpoints": entries}), "e")] == ["x/a", "y/a"]


WHOLE_FILES: list[tuple[str, int | None, str]] = [
    ("", 1, "empty"),
    ("# nothing\n", 1, "empty"),
    ("~", 1, "empty"),
    ("endpoints:", 1, "expected a list, got nothing"),
    ("endpoints: {}", 1, "expected a list, got a mapping"),
    ("endpoints: 3", 1, "expected a list"),
    ("endpoints: text", 1, "expected a list"),
    ("endpoints: yes", 1, "expected a list"),
    ("[]", 1, "expected a mapping, got a list"),
    ("text", 1, "expected a mapping"),
    ("3", 1, "expected a mapping"),
    ("{}", 1, "`endpoints` is missing"),
    ("\n\nendpoint: []", 3, "did you mean `endpoints`?"),
    ("Endpoints: []", 1, "did you mean `endpoints`?"),
    ("pods: []", 1, "unknown field `pods`"),
    ("endpoints: [1]", 1, "expected a mapping"),
    ("endpoints: [null]", 1, "expected a mapping"),
    ("endpoints:\n- text", 2, "expected a mapping"),
    ("endpoints:\n- []", 2, "expected a mapping"),
    ("endpoints: []\nendpoints: []", 2, "given twice"),
    ("endpoints: []\n---\nendpoints: []", 2, "second document"),
    ("endpoints: [", 2, "not valid YAML"),
    ("endpoints: ]", 1, "not valid YAML"),
    ("endpoints: [}", 1, "not valid YAML"),
    ("endpoints: 'a", 1, "not valid YAML"),
    ("endpoints:\n\t- a", 2, "not valid YAML"),
    ("endpoints: *a", 1, "undefined alias"),
    ("endpoints: !!python/name:os.system x", 1, "not supported"),
    ("endpoints: &a [*a]", 1, "alias contains itself"),
    ("endpoints: \x07", 1, "control characters"),
    ('{"endpoints": [}', 1, "not valid YAML"),
    ("#" * (1024 * 1024 + 1), None, "larger than"),
    ("#" + "é" * (512 * 1024), None, "larger than"),
]


@pytest.mark.parametrize(("text", "line", "words"), WHOLE_FILES)
def test_whole_file_refused(text: str, line: int | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoints_file(text, "e.yaml")
    assert words in str(caught.value)
    assert (caught.value.source, caught.value.line) == ("e.yaml", line)


MANY = [
    (
        "name",
        "is not a name",
        ["''", "' '", "a b", "a/b", "-a", "a-", ".a", "'é'", "'a\\tb'", '"a\\nb"', "'*'", "a" * 254, "a?b"],
    ),
    ("namespace", "is not a namespace", ["''", "A", "a.b", "a_b", "-a", "a-", "a/b", "a" * 64, "'a b'"]),
    (
        "address",
        "is not an IP address",
        ["''", "localhost", "pod.example", "10.0.0", "10.0.0.0.1", "10.0.0.256", "10.0.0.-1", "010.0.0.1", "'::g'"],
    ),
    (
        "address",
        "is not an IP address",
        ["'10.0.0.1 '", "10.0.0.1/32", "http://10.0.0.1", "'[::1]'", "1::2::3", "'0x7f000001'", "10,0,0,1"],
    ),
    (
        "address",
        "not the address of one server",
        ["0.0.0.0", "'::'", "224.0.0.1", "'ff02::1'", "'fe80::1%eth0'"],
    ),
    (
        "port",
        "not between 1 and 65535",
        ["0", "-1", "65536", "99999999", "'0'", "'65536'", "'00000'", "0x10000"],
    ),
    (
        "port",
        "is not a port",
        ["''", "http", "'-1'", "'+80'", "' 80'", "'8_0'", "'80.0'", "'٨٠'", "'123456'", "80/tcp", "1e3"],
    ),
]


def field_cases() -> list[tuple[str, str, str]]:
    """Field, its YAML, and what the message says."""
    cases = [
        ("name", "", "got nothing"),
        ("name", "3", "put the value in quotes"),
        ("name", "yes", "put the value in quotes"),
        ("name", "1.5", "put the value in quotes"),
        ("name", "[a]", "got a list"),
        ("name", "{a: b}", "got a mapping"),
        ("namespace", "", "got nothing"),
        ("namespace", "7", "put the value in quotes"),
        ("namespace", "[]", "got a list"),
        ("address", "", "got nothing"),
        ("address", "10", "got a whole number"),
        ("address", "10.5", "got a number"),
        ("address", "[10.0.0.1]", "got a list"),
        ("port", "", "got nothing"),
        ("port", "8000.5", "got a number"),
        ("port", "yes", "got a bool"),
        ("port", "[8000]", "got a list"),
        ("port", "{}", "got a mapping"),
        ("labels", "", "got nothing"),
        ("labels", "[]", "got a list"),
        ("labels", "text", "got a string"),
        ("labels", "3", "got a whole number"),
        ("labels", "{'': x}", "empty name"),
    ]
    cases.append(("address", "10.0.0.1:8000", "the port has its own field"))
    return cases + [(field, value, words) for field, words, values in MANY for value in values]


@pytest.mark.parametrize(("field", "value", "words"), field_cases())
def test_field_refused_with_its_line(field: str, value: str, words: str) -> None:
    values = {"name": "a", "namespace": "default", "address": "10.0.0.1", "port": "8000", "labels": "{}", field: value}
    lines = ["endpoints:", "- {name: first, address: 10.9.9.9, port: 1}", "-"]
    lines += [f"  {key}: {text}" for key, text in values.items()]
    with pytest.raises(ConfigError) as caught:
        parse_endpoints_file("\n".join(lines), "e.yaml")
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.field) == (4 + list(values).index(field), f"endpoints[1].{field}")


@pytest.mark.parametrize(
    ("entry", "line", "field", "words"),
    [
        (
            "{name: b, address: 10.0.0.2, port: 1, addrezz: x}",
            3,
            "endpoints[1].addrezz",
            "did you mean `address`?",
        ),
        ("{namex: b, address: 10.0.0.2, port: 1}", 3, "endpoints[1].namex", "did you mean `name`?"),
        ("{Port: 1, name: b, address: 10.0.0.2, port: 1}", 3, "endpoints[1].Port", "did you mean `port`?"),
        ("{name: b, address: 10.0.0.2, port: 1, weight: 3}", 3, "endpoints[1].weight", "unknown field `weight`"),
        ("{address: 10.0.0.2, port: 1}", 3, "endpoints[1]", "`name` is missing"),
        ("{name: b, port: 1}", 3, "endpoints[1]", "`address` is missing"),
        ("{name: b, address: 10.0.0.2}", 3, "endpoints[1]", "`port` is missing"),
        ("{}", 3, "endpoints[1]", "is missing"),
        ("{name: a, address: 10.0.0.2, port: 1}", 3, "endpoints[1].name", "also the name of endpoints[0]"),
        ("{name: b, address: 10.0.0.1, port: 1}", 3, "endpoints[1].address", "also the place of endpoints[0]"),
        ("{name: b, name: c, address: 10.0.0.2, port: 1}", 3, None, "'name' is given twice"),
        ("{name: b, address: 10.0.0.2, port: 1, labels: {\n x: 1}}", 4, "endpoints[1].labels.x", "in quotes"),
        ("{name: b, address: 10.0.0.2, port: 1, labels: {x: }}", 3, "endpoints[1].labels.x", "got nothing"),
        ("{name: b, address: 10.0.0.2, port: 1, labels: {x: [y]}}", 3, "endpoints[1].labels.x", "got a list"),
        ("{name: b, address: 10.0.0.2, port: 1, labels: {1: y}}", 3, None, "put it in quotes"),
        ("{name: b, address: 10.0.0.2, port: 1, labels: {x: y, x: z}}", 3, None, "given twice"),
    ],
)
def test_entry_refused(entry: str, line: int, field: str | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoints_file(f"endpoints:\n- {{name: a, address: 10.0.0.1, port: 1}}\n- {entry}\n", "e.yaml")
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.field) == (line, field)


def test_enough_malformed_files() -> None:
    assert len(WHOLE_FILES) + len(field_cases()) > 100


@given(st.lists(st.sampled_from(GOOD.splitlines()), max_size=12))
def test_shuffled_lines_parse_or_are_refused(lines: Sequence[str]) -> None:
    try:
        parse_endpoints_file("\n".join(lines), "e")
    except ConfigError as error:
        assert error.line is not None  # noqa: PT017


def fake_dns(host: str) -> list[str]:
    known = {"pod.example": ["10.1.1.1"], "pods.example": ["10.1.1.1", "10.1.1.2"], "six.example": ["fd00::9"]}
    if host in known:
        return known[host]
    if host == "void.example":
        return []
    raise socket.gaierror(-2, "Name or service not known")


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("http://10.0.0.1:8000", [("10.0.0.1:8000", "10.0.0.1", 8000)]),
            ("http://10.0.0.1:8000/", [("10.0.0.1:8000", "10.0.0.1", 8000)]),
            ("HTTP://10.0.0.1:8000", [("10.0.0.1:8000", "10.0.0.1", 8000)]),
            (" 10.0.0.2:8000 ", [("10.0.0.2:8000", "10.0.0.2", 8000)]),
            ("[::1]:8000", [("[::1]:8000", "::1", 8000)]),
            ("http://[fd00::0:1]:80", [("[fd00::0:1]:80", "fd00::1", 80)]),
            ("pod.example:8000", [("pod.example:8000", "10.1.1.1", 8000)]),
            ("http://six.example:1", [("six.example:1", "fd00::9", 1)]),
            (
                "pods.example:80",
                [("pods.example@10.1.1.1:80", "10.1.1.1", 80), ("pods.example@10.1.1.2:80", "10.1.1.2", 80)],
            ),
        ],
    )
    def test_good(self, url: str, expected: list[tuple[str, str, int]]) -> None:
        specs = parse_endpoint_urls([url], resolve=fake_dns)
        assert [(spec.name, spec.address, spec.port) for spec in specs] == expected

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            ("https://10.0.0.1:8000", "https is not supported"),
            ("grpc://10.0.0.1:8000", "'grpc' is not known"),
            ("10.0.0.1", "has no port"),
            ("http://10.0.0.1", "has no port"),
            ("http://10.0.0.1:", "has no port"),
            ("::1:8000", "cannot be read"),
            ("10.0.0.1:http", "cannot be read"),
            ("10.0.0.1:99999", "cannot be read"),
            ("10.0.0.1:0", "not between 1 and 65535"),
            ("[::1:8000", "cannot be read"),
            ("http://", "names no host"),
            (":8000", "names no host"),
            ("", "names no host"),
            ("http://10.0.0.1:8000/v1", "more than host and port"),
            ("http://10.0.0.1:8000?x=1", "more than host and port"),
            ("http://10.0.0.1:8000#x", "more than host and port"),
            ("http://me:secret@10.0.0.1:8000", "more than host and port"),
            ("10.0.0.300:8000", "is not an IP address"),
            ("0.0.0.0:8000", "not the address of one server"),
            ("a b:8000", "is not a host name"),
            ("-a:8000", "is not a host name"),
            ("nobody.example:8000", "cannot be resolved"),
            ("void.example:8000", "has no address"),
        ],
    )
    def test_refused(self, url: str, words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_endpoint_urls(["10.0.0.9:1", url], source="--pods", resolve=fake_dns)
        assert words in str(caught.value)
        assert (caught.value.source, caught.value.field) == ("--pods", "endpoints[1]")

    def test_none_and_twice(self) -> None:
        with pytest.raises(ConfigError, match="no endpoint is given"):
            parse_endpoint_urls([])
        with pytest.raises(ConfigError, match="given twice"):
            parse_endpoint_urls(["10.1.1.1:80", "pod.example:80"], resolve=fake_dns)

    def test_real_resolver(self) -> None:
        assert resolve_host("127.0.0.1") == ["127.0.0.1"]
        assert resolve_host("::1") == ["::1"]


def test_an_empty_list_is_a_fleet_scaled_to_zero() -> None:
    assert parse_endpoints_file("endpoints: []", "pods.yaml") == []

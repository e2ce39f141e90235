"""Questions to an indexer, its answers, and which endpoint it means."""

from __future__ import annotations

import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import make_endpoint, make_endpoints, make_request

from pointsman.api.endpoint import Endpoint, EndpointId, LoraState
from pointsman.framework.kv import Held
from pointsman.kvcache.query import parse_query
from pointsman.kvcache.remote_wire import (
    MAX_QUESTION_BYTES,
    BadAnswerError,
    PodNames,
    UnaskableError,
    question,
    read_answer,
)

CHAT = "/v1/chat/completions"
PODS = make_endpoints(2)


def asked(body: bytes = b"", endpoints: list[Endpoint] = PODS, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(question(make_request(b"p", path=CHAT, **fields), body, endpoints))
    return found


@pytest.mark.parametrize("ids", [(1, 2), [1, 2], array("I", [1, 2])])
def test_token_ids_are_asked_about_where_they_are_known(ids: Any) -> None:
    assert asked(token_ids=ids) == {"model": "m", "token_ids": [1, 2]}
    found = asked(token_ids=ids, cache_salt="s", target_model="other")
    assert found == {"model": "other", "salt": "s", "token_ids": [1, 2]}
    parse_query(json.dumps(found).encode())


def test_of_an_adapter_the_base_model_is_named() -> None:
    lora = LoraState(available=frozenset({"sql"}))
    by_label = [make_endpoint(0), make_endpoint(1, lora=lora, model="base")]
    assert asked(endpoints=by_label, model="sql", token_ids=[1]) == {
        "model": "base",
        "adapter": "sql",
        "token_ids": [1],
    }
    by_list = [make_endpoint(0, lora=lora, models=frozenset({"b", "a"}))]
    assert asked(endpoints=by_list, model="sql", token_ids=[1])["model"] == "a"
    assert asked(endpoints=[make_endpoint(0, lora=lora)], model="sql", token_ids=[1])["model"] == "sql"
    assert asked(endpoints=by_label, model="", token_ids=[1]) == {"model": "base", "token_ids": [1]}


def test_without_ids_the_clients_body_is_sent() -> None:
    body = {"model": "given", "messages": [{"role": "user", "content": "a"}], "seed": 1, "prompt": "?", "pods": ["x"]}
    found = asked(json.dumps(body).encode(), target_model="m2", cache_salt="s")
    assert found == {
        "model": "m2",
        "messages": body["messages"],
        "seed": 1,
        "salt": "s",
        "return_token_ids": True,
    }


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"[]", {}),
        (b"{", {}),
        (b"{}" + b" " * MAX_QUESTION_BYTES, {}),
        (b'{"prompt": "a"}', {"path": "/v1/embeddings"}),
        (b"", {"token_ids": range(MAX_QUESTION_BYTES)}),
        (b"", {"token_ids": [1000] * (MAX_QUESTION_BYTES // 5)}),
        (b"", {"token_ids": [1], "model": "m" * 600}),
        (b"", {"token_ids": [1], "model": ""}),
        (b"", {"token_ids": [1], "cache_salt": "s" * 600}),
        (b"", {"token_ids": [1], "cache_salt": "\ud800"}),
    ],
)
def test_what_cannot_be_asked(body: bytes, fields: dict[str, Any]) -> None:
    with pytest.raises(UnaskableError):
        question(make_request(b"p", **{"path": CHAT, **fields}), body, PODS)


def endpoint(name: str, address: str, port: int) -> Endpoint:
    return Endpoint(id=EndpointId(name), address=address, port=port)


def test_an_endpoint_by_whatever_name_the_indexer_has_for_it() -> None:
    names = PodNames([endpoint("default/a", "10.0.0.1", 8000), endpoint("default/b", "::1", 8000)])
    for name in (
        *("default/a", "a", "10.0.0.1:8000", "10.0.0.1"),
        *("default/10.0.0.1:8000", "x/10.0.0.1:8000", "default/pods.example@10.0.0.1:8000"),
    ):
        assert names.find(name) == "default/a", name
    for name in ("default/b", "b", "[::1]:8000", "::1", "default/[::1]:8000"):
        assert names.find(name) == "default/b", name
    for name in ("", "c", "prod/a", "10.0.0.1:8001", "default/", "/a", "default/10.0.0.1"):
        assert names.find(name) is None, name


def test_a_name_that_several_share_is_nobodys() -> None:
    names = PodNames([endpoint("x/a", "10.0.0.1", 1), endpoint("y/a", "10.0.0.1", 2)])
    assert [names.find(name) for name in ("a", "10.0.0.1", "x/a", "10.0.0.1:2")] == [None, None, "x/a", "y/a"]
    # The name of one is the address of another: the name counts.
    names = PodNames([endpoint("default/10.0.0.2", "10.0.0.1", 1), endpoint("default/b", "10.0.0.2", 1)])
    assert names.find("10.0.0.2") == "default/10.0.0.2"


def held(pods: dict[str, Any], **more: Any) -> Any:
    found = read_answer(json.dumps({"pods": pods, **more}).encode(), PodNames(PODS))
    return dict(found.held), found.token_ids


def pod(tokens: int, confidence: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"matched_tokens": tokens, "block_size": 16, "confidence": confidence, **more}


def test_answers() -> None:
    a, b = PODS[0].id, PODS[1].id
    assert held({"pod-0": pod(32), b: pod(16, 0.5), "other": pod(16)}) == (
        {a: Held(32, 16, 1.0), b: Held(16, 16, 0.5)},
        None,
    )
    # At least one token is always left to compute.
    assert held({a: pod(32)}, prompt_tokens=32)[0] == {a: Held(16, 16, 1.0)}
    assert held({a: pod(32)}, prompt_tokens=33)[0] == {a: Held(32, 16, 1.0)}
    assert held({a: pod(32)}, token_ids=[7])[0] == {a: Held(0, 16, 1.0)}
    assert held({a: pod(32)}, token_ids=[7])[1] == (7,)
    # Known under two names: whoever is surer, then whoever holds more.
    assert held({a: pod(16), "pod-0": pod(32, 0.4), "10.0.0.0": pod(32)})[0] == {a: Held(32, 16, 1.0)}
    # No block size yet: nothing is known. Several ranks: which will serve is not known.
    assert held({a: {"confidence": 1.0}, b: pod(16, rank=2)})[0] == {b: Held(16, 16, 0.0)}


def test_tiers_of_what_counts() -> None:
    a = PODS[0].id
    tiers = {"gpu": 2, "cpu": 1, "disk": 1}
    assert held({a: pod(64, blocks=tiers)})[0] == {a: Held(64, 16, 1.0, (16, 16))}
    assert held({a: pod(64, blocks=tiers)}, prompt_tokens=64)[0] == {a: Held(48, 16, 1.0, (16, 0))}
    assert held({a: pod(64, blocks=tiers)}, prompt_tokens=20)[0] == {a: Held(16, 16, 1.0, (0, 0))}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"pods": []}',
        b'{"pods": {"a": {"matched_tokens": -1}}}',
        b'{"pods": {"a": {"confidence": 2}}}',
        b'{"pods": {}, "token_ids": [-1]}',
        b'{"pods": {"\xff": {}}}',
        b"[" * 10_000,
    ],
)
def test_answers_that_are_none(data: bytes) -> None:
    with pytest.raises(BadAnswerError):
        read_answer(data, PodNames(PODS))


FIELDS = st.sampled_from(
    ["pods", "pod-0", "matched_tokens", "block_size", "rank", "confidence", "token_ids", "prompt_tokens", "blocks"]
)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
)
POD = st.dictionaries(FIELDS, st.integers(0, 40) | VALUES, max_size=4)
ANSWERS = VALUES | st.builds(lambda pod, more: {**more, "pods": {"pod-0": pod}}, POD, st.dictionaries(FIELDS, VALUES))


@given(st.binary(max_size=60) | ANSWERS.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_answer_or_none(data: bytes) -> None:
    try:
        found = read_answer(data, PodNames(PODS))
    except BadAnswerError:
        return
    assert all(one.tokens % one.block_tokens == 0 for one in found.held.values())

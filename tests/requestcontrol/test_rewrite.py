"""The model's name goes in and out, and nothing else changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pointsman.errors import BadRequestError
from pointsman.requestcontrol.rewrite import ModelRestorer, replace_model

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
tricky = st.sampled_from(["model", '"model":"old"', '\\"model\\":', "{", "}", "[", "]", '"', "\\", ":", ","])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | tricky | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky | st.just("model") | names, inner, max_size=3),
    max_leaves=8,
)


class TestRequest:
    @given(st.dictionaries(tricky | names, values, max_size=4), names, names, st.booleans(), st.integers(0, 3))
    def test_only_the_name_at_the_top_changes(
        self, fields: dict[str, Any], model: str, target: str, ascii_only: bool, place: int
    ) -> None:
        items = [(key, value) for key, value in fields.items() if key != "model"]
        items.insert(min(place, len(items)), ("model", model))
        before = json.dumps(dict(items), ensure_ascii=ascii_only).encode()
        after = replace_model(before, target)
        assert json.loads(after) == dict(items) | {"model": target}
        assert list(json.loads(after)) == list(dict(items))
        assert len(after) - len(before) == len(json.dumps(target)) - len(
            json.dumps(model, ensure_ascii=ascii_only).encode()
        )

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b'{"model":"old"}', b'{"model":"new"}'),
            (b' {\n "model" :\t"old" , "x":1.50 }\n', b' {\n "model" :\t"new" , "x":1.50 }\n'),
            (b'{"messages":[{"model":"old"}],"model":"old"}', b'{"messages":[{"model":"old"}],"model":"new"}'),
            (b'{"a":"model","b":"model","model":"old"}', b'{"a":"model","b":"model","model":"new"}'),
            (b'{"x":"\\"model\\":\\"old\\"","model":"old"}', b'{"x":"\\"model\\":\\"old\\"","model":"new"}'),
            (b'{"mod\\u0065l":"old"}', b'{"mod\\u0065l":"new"}'),
            (b'{"y":{"model":"old"}}', b'{"y":{"model":"old"}}'),
            (b'{"model":null,"z":"old"}', b'{"model":"new","z":"old"}'),
            (b'{"e":{},"l":[[],{"model":1}],"model":"old"}', b'{"e":{},"l":[[],{"model":1}],"model":"new"}'),
            (b'{"x":"unended', b'{"x":"unended'),
            (b'[{"model":"old"}]', b'[{"model":"old"}]'),
            (b"", b""),
            (b"\xff\x00", b"\xff\x00"),
        ],
    )
    def test_by_example(self, before: bytes, after: bytes) -> None:
        assert replace_model(before, "new") == after

    @pytest.mark.parametrize(
        "body",
        [
            b'{"model":"a","model":"b"}',
            b'{"model":"a","model":"a"}',
            b'{"x":"m","x":"m","model":"m"}',
            b'{"x":1,"model":"m","x":12}',
            b'{"x":12,"model":"m","x":1}',
            b'{"model":"m","mod\\u0065l":"m"}',
            b'{"x":1,"model":"m","x":"\\"model\\":1}"}',
        ],
    )
    def test_a_key_that_comes_twice_is_refused(self, body: bytes) -> None:
        with pytest.raises(BadRequestError, match="twice"):
            replace_model(body, "new")

    def test_names_are_escaped(self) -> None:
        assert json.loads(replace_model(b'{"model":"old"}', 'a"b\\c\n\N{SNOWMAN}'))["model"] == 'a"b\\c\n\N{SNOWMAN}'

    @given(st.binary(max_size=200))
    def test_garbage_passes(self, body: bytes) -> None:
        replace_model(body, "new")


ANSWERS = [
    b'{"id":"x","model":"target","choices":[]}',
    b'{"model": "target", "x": "\\"model\\":\\"target\\""}',
    b'data: {"model":"target"}\n\ndata: {"response":{"model" : "target"}}\n\ndata: [DONE]\n\n',
    b'{"model":"targets","model":"targe","xmodel":"target","model":"target"}',
    b'{"model","model":"model":"target"',
    b'""""model""model":"t"model":"target"',
    b'{"model":\n\t "target","model":          "target"}',
]


def restored(data: bytes, cuts: list[int], target: str = "target", original: str = "asked") -> bytes:
    restorer = ModelRestorer(target, original)
    out = b""
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        out += restorer.feed(data[start:end])
        assert len(restorer.held) < 60
    return out + restorer.feed(b"", last=True)


class TestAnswer:
    @pytest.mark.parametrize("answer", ANSWERS)
    def test_every_pair_of_cuts(self, answer: bytes) -> None:
        whole = ModelRestorer("target", "asked").feed(answer, last=True)
        for first in range(len(answer) + 1):
            for second in range(first, len(answer) + 1, 3):
                assert restored(answer, [first, second]) == whole

    def test_what_changes(self) -> None:
        assert restored(ANSWERS[0], []) == b'{"id":"x","model":"asked","choices":[]}'
        assert restored(ANSWERS[1], []) == b'{"model": "asked", "x": "\\"model\\":\\"target\\""}'
        assert restored(ANSWERS[2], []).count(b'"asked"') == 2
        assert restored(ANSWERS[3], []) == b'{"model":"targets","model":"targe","xmodel":"target","model":"asked"}'

    @given(st.lists(st.sampled_from([*ANSWERS, b"x", b'"', b'"model"', b":", b'"tar', b" "]), max_size=6), st.data())
    @example([b'"model":"target"'], None)
    def test_cuts_anywhere(self, parts: list[bytes], data: Any) -> None:
        answer = b"".join(parts)
        cuts = [] if data is None else sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=12)))
        assert restored(answer, cuts) == ModelRestorer("target", "asked").feed(answer, last=True)

    @pytest.mark.parametrize("ascii_only", [True, False])
    def test_other_characters(self, ascii_only: bool) -> None:
        answer = json.dumps({"model": 'm/"ö"'}, ensure_ascii=ascii_only).encode()
        for cut in range(len(answer)):
            assert json.loads(restored(answer, [cut], 'm/"ö"', "ä\\1")) == {"model": "ä\\1"}

    def test_nothing_is_held_of_a_finished_answer(self) -> None:
        restorer = ModelRestorer("target", "asked")
        for answer in ANSWERS[:3]:
            restorer.feed(answer)
            assert restorer.held == b""

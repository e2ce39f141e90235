from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.requestcontrol.tokenizing.tiny import CHAT, DATA, TEXT, tiny_folder
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from pointsman.requestcontrol.tokenizing.local import LocalTokenizer, load_tokenizer
from pointsman.requestcontrol.tokenizing.prompts import ChatPrompt, Prompt, TextPrompt, read_prompt
from pointsman.requestcontrol.tokenizing.template import TemplateError

TINY = load_tokenizer(tiny_folder())
SMALL = load_tokenizer(tiny_folder(), cache_bytes=2000)
"""Its cache is so small that pieces come and go."""
WHOLE = load_tokenizer(tiny_folder(), cache_bytes=0)
ODD = ["<|im_end|>", "<|im_start|>", "<|im_", "end|>", "<", "\n", " ", "  a", "b", "你好", "\U0001f642", "\u0301", "0"]
WORDS = st.lists(st.sampled_from(ODD) | st.text(max_size=5), max_size=8).map("".join)
# JSON may hold lone surrogates, but no tokenizer takes them.
CLEAN = WORDS.map(lambda text: text.encode("utf-8", "ignore").decode())


def prompt_of(path: str, body: dict[str, Any]) -> Prompt:
    prompt = read_prompt(path, msgspec.json.encode(body))
    assert prompt is not None
    return prompt


def captured() -> list[tuple[str, dict[str, Any], list[int]]]:
    lines = (DATA / "captures" / "requests.jsonl").read_text().splitlines()
    rows = [(row["endpoint"], row["request"], row["prompt_token_ids"]) for row in map(json.loads, lines)]
    rows = [row for row in rows if not isinstance(row[1].get("prompt"), list)]
    for row in json.loads((DATA / "captures" / "http_examples.json").read_text()):
        if row["url"] == "/tokenize":
            path = CHAT if "messages" in row["request"] else TEXT
            rows.append((path, row["request"], row["response"]["tokens"]))
        elif row["url"] == "/v1/chat/completions/render":
            rows.append((CHAT, row["request"], row["response"]["token_ids"]))
    return rows


def test_same_ids_as_a_real_vllm() -> None:
    rows = captured()
    assert len(rows) >= 49
    for path, body, ids in rows:
        assert TINY.tokens(prompt_of(path, body)).tolist() == ids, body
        assert WHOLE.tokens(prompt_of(path, body)).tolist() == ids, body


def test_cuts_at_what_the_template_writes() -> None:
    assert set(TINY.cuts) == {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}
    assert WHOLE.cuts == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), CLEAN), min_size=1, max_size=6))
def test_growing_conversations_equal_full_tokenization(turns: list[tuple[str, str]]) -> None:
    messages: list[dict[str, Any]] = []
    for role, content in turns:
        messages.append({"role": role, "content": content})
        prompt = ChatPrompt(list(messages), options={"add_generation_prompt": True})
        whole = WHOLE.tokens(prompt)
        assert TINY.tokens(prompt) == whole
        assert SMALL.tokens(prompt) == whole


@settings(max_examples=100, deadline=None)
@given(CLEAN)
def test_any_text_equals_full_tokenization(text: str) -> None:
    whole = WHOLE.tokens(TextPrompt(text))
    assert TINY.tokens(TextPrompt(text)) == whole
    assert TINY.tokens(TextPrompt(text)) == whole, "the second time from the cache"


def test_only_the_tail_is_tokenized() -> None:
    tokenizer = load_tokenizer(tiny_folder())
    messages = [{"role": "system", "content": "x " * 5000}, {"role": "user", "content": "one"}]
    first = tokenizer.prepare(ChatPrompt(messages, options={"add_generation_prompt": True}))
    assert first.fresh > 10_000
    tokenizer.finish(first)
    messages += [{"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]
    assert tokenizer.prepare(ChatPrompt(messages, options={"add_generation_prompt": True})).fresh < 100


SPECIALS = [
    AddedToken("<s>", special=True, normalized=False),
    AddedToken("</s>", special=True, normalized=False),
    AddedToken("<|pad|>", special=True, normalized=False, rstrip=True),
    AddedToken("<|y|>", normalized=True, lstrip=True),
]


def trained(kind: str) -> Tokenizer:
    """A tokenizer whose pieces depend on where in the text they stand, each in its way."""
    tokenizer = Tokenizer(models.BPE())
    match kind:
        case "metaspace-first":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        case "metaspace-always":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        case "prepend":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("_"), normalizers.Replace(" ", "_")])
        case "bytes":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(["hello world, how are you <s> _ ▁ Ġ a b c hello you"] * 3, trainer)
    ends = [("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer


@pytest.mark.parametrize("kind", ["metaspace-first", "metaspace-always", "prepend", "bytes"])
def test_exact_for_other_kinds_of_tokenizers(kind: str) -> None:
    real = trained(kind)
    ours = LocalTokenizer(real.to_str(), cut_at="<s></s><|pad|><|y|>")
    assert set(ours.cuts) == {"<s>", "</s>"}
    parts = st.sampled_from(["<s>", "</s>", "<|pad|>", "<|y|>", " ", "hello", " you", "a", "<", "s>", "\n"])

    @settings(max_examples=150, deadline=None)
    @given(st.lists(parts, max_size=12).map("".join), st.booleans())
    def same(text: str, special: bool) -> None:
        expected = real.encode(text, add_special_tokens=special).ids
        assert ours.tokens(TextPrompt(text, add_special_tokens=special)).tolist() == expected

    same()


def test_special_tokens_only_the_tokenizer_can_place() -> None:
    real = trained("bytes")
    # <s> comes before every text, but behind it only by chance: nothing to be sure of
    real.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", real.token_to_id("<s>"))]
    )
    ours = LocalTokenizer(real.to_str(), cut_at="<s>")
    for text in ("", "hello", "<s>hello<s>"):
        assert ours.tokens(TextPrompt(text)).tolist() == real.encode(text).ids


def test_a_folder_without_a_template_has_no_chats(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tiny_folder() / "tokenizer.json").read_bytes())
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.tokens(TextPrompt("x = 1"))
    with pytest.raises(TemplateError, match="no chat template"):
        tokenizer.tokens(ChatPrompt([{"role": "user", "content": "x"}]))
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json", template=tmp_path / "t.jinja")
    assert tokenizer.tokens(ChatPrompt([{"role": "user", "content": "x"}])) == tokenizer.tokens(TextPrompt("x"))


def test_models_that_vllm_renders_by_itself_have_no_chats(tmp_path: Path) -> None:
    for file in tiny_folder().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss"}')
    with pytest.raises(TemplateError):
        load_tokenizer(tmp_path).tokens(ChatPrompt([{"role": "user", "content": "x"}]))


@pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"model": 5}'])
def test_no_tokenizer(text: str) -> None:
    with pytest.raises(ValueError):
        LocalTokenizer(text)

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from pointsman.sim.tokens import (
    ANSWER_TOKENS,
    VOCABULARY,
    Message,
    answer_ids,
    answer_offset,
    answer_text,
    chat_tokens,
    detokenize,
    text_tokens,
)


@given(st.text(max_size=60))
def test_four_bytes_are_a_token(text: str) -> None:
    tokens = text_tokens(text)
    assert len(tokens) == -(-len(text.encode()) // 4)
    assert all(100 <= token < VOCABULARY for token in tokens)
    assert text_tokens(text + "more").tolist()[: len(text.encode()) // 4] == tokens.tolist()[: len(text.encode()) // 4]


def test_a_turn_begins_with_the_turn_before_it() -> None:
    turn = [Message("system", "be brief"), Message("user", "hello?!")]
    first = chat_tokens(turn)
    offset = answer_offset(first)
    answer = Message("assistant", answer_text(offset, 0, 9))
    second = chat_tokens([*turn, answer, Message("user", "more")])
    assert second[: len(first) + 9] == first + answer_ids(offset, 0, 9)


def test_the_generation_prompt_can_be_left_out() -> None:
    messages = [Message("user", "hello")]
    assert len(chat_tokens(messages)) == len(chat_tokens(messages, add_generation_prompt=False)) + 2


@given(st.integers(0, ANSWER_TOKENS - 1), st.integers(0, 9000), st.integers(0, 9000))
def test_answers_are_the_same_in_pieces(offset: int, first: int, second: int) -> None:
    total = first + second
    ids = answer_ids(offset, 0, total)
    text = answer_text(offset, 0, total)
    assert ids == answer_ids(offset, 0, first) + answer_ids(offset, first, total)
    assert text == answer_text(offset, 0, first) + answer_text(offset, first, total)
    assert text_tokens(text) == ids


def test_answers_need_no_escaping() -> None:
    text = answer_text(0, 0, ANSWER_TOKENS)
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set("\"\\'<>")


def test_the_same_prompt_gets_the_same_answer() -> None:
    assert answer_offset(array("I", [1, 2])) == answer_offset(array("I", [1, 2]))
    assert answer_offset(array("I", [1, 2])) != answer_offset(array("I", [2, 1]))


def test_known_ids_have_text_and_others_a_placeholder() -> None:
    tokens = chat_tokens([Message("user", answer_text(7, 0, 3))]).tolist()
    assert detokenize([*tokens, 149_999]).startswith(f"<|im_start|>user\n{answer_text(7, 0, 3)}<|im_end|>\n")
    assert detokenize([149_999]) == "<149999>"

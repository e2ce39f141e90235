from __future__ import annotations

import pytest

from pointsman.errors import PluginError, StateError
from pointsman.framework.keys import PrefixMatch, prefix_match_key
from pointsman.framework.state import CycleState, StateKey

NUMBER = StateKey[int]("number")


class TestKey:
    def test_the_name_is_the_identity(self) -> None:
        assert StateKey[int]("a") == StateKey[str]("a")
        assert StateKey[int]("a") != StateKey[int]("b")
        assert StateKey[int]("a") != "a"
        assert len({StateKey[int]("a"), StateKey[int]("a"), StateKey[int]("b")}) == 2
        assert repr(NUMBER) == "StateKey('number')"

    def test_another_plugins_data_is_read_without_importing_it(self) -> None:
        state = CycleState()
        state.write(prefix_match_key("mine"), PrefixMatch(16, 3))
        assert state.read(StateKey[PrefixMatch]("prefix-match/mine")).total_blocks == 3


class TestState:
    def test_what_was_written_is_read(self) -> None:
        state = CycleState()
        state.write(NUMBER, 7)
        assert (state.read(NUMBER), state.get(NUMBER), state.get(NUMBER, 1)) == (7, 7, 7)

    def test_falsy_values_count_as_written(self) -> None:
        state = CycleState()
        state.write(NUMBER, 0)
        assert (state.read(NUMBER), state.get(NUMBER, 9)) == (0, 0)

    def test_never_written(self) -> None:
        state = CycleState()
        assert state.get(NUMBER) is None
        assert state.get(NUMBER, 3) == 3
        with pytest.raises(StateError, match="'number' was never written"):
            state.read(NUMBER)

    def test_written_twice_keeps_the_first(self) -> None:
        state = CycleState()
        state.write(NUMBER, 1)
        with pytest.raises(StateError, match="'number' written twice"):
            state.write(StateKey[int]("number"), 2)
        assert state.read(NUMBER) == 1

    def test_sealed_is_read_only(self) -> None:
        state = CycleState()
        state.write(NUMBER, 1)
        state.seal()
        state.seal()
        with pytest.raises(StateError, match="after the producers' phase"):
            state.write(StateKey[int]("other"), 2)
        assert state.read(NUMBER) == 1

    def test_a_wrong_use_is_the_plugins_fault(self) -> None:
        assert issubclass(StateError, PluginError)


@pytest.mark.parametrize(
    ("slot", "blocks", "share", "tokens"), [(0, 2, 0.5, 32), (1, 4, 1.0, 64), (2, 0, 0.0, 0), (99, 0, 0.0, 0)]
)
def test_prefix_match_by_slot(slot: int, blocks: int, share: float, tokens: int) -> None:
    match = PrefixMatch(block_tokens=16, total_blocks=4, blocks=(2, 4, 0))
    assert (match.of(slot), match.share(slot), match.tokens(slot)) == (blocks, share, tokens)


def test_a_prompt_shorter_than_a_block_matches_nothing() -> None:
    assert PrefixMatch(block_tokens=16, total_blocks=0).share(0) == 0.0

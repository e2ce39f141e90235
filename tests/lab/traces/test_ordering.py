from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.errors import TraceError
from pointsman.lab.traces import ordering
from pointsman.lab.traces.ordering import all_in_order, in_memory, in_order, sliced
from pointsman.lab.traces.rows import TraceRow


def rows(times: Iterable[float | None]) -> Iterator[TraceRow]:
    return (TraceRow(line=line, at=at, input_length=1, output_length=1) for line, at in enumerate(times, 1))


def times(found: Iterable[TraceRow]) -> list[float | None]:
    return [row.at for row in found]


@given(st.lists(st.floats(0, 59.9)))
def test_late_rows_within_the_window_are_put_in_order(delays: list[float]) -> None:
    mixed = [number + delay for number, delay in enumerate(delays)]
    found = list(in_order(rows(mixed)))
    assert times(found) == sorted(mixed)
    assert sorted(row.line for row in found) == list(range(1, len(mixed) + 1))


def test_later_than_the_window_is_refused_with_the_line_and_the_remedy() -> None:
    mixed = [0.0, 10.0, 100.0, 5.0]
    with pytest.raises(TraceError, match=r"95.0 s earlier.*--sort") as caught:
        list(in_order(rows(mixed)))
    assert caught.value.line == 4
    assert times(all_in_order(rows(mixed))) == sorted(mixed)


def test_memory_is_bounded_in_dense_traces() -> None:
    seen = 0

    def endless() -> Iterator[TraceRow]:
        nonlocal seen
        for row in rows(number / 1e6 for number in range(10**9)):
            seen += 1
            yield row

    assert len(list(islice(in_order(endless(), most=100), 500))) == 500
    assert seen <= 601


def test_too_much_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "IN_MEMORY_ROWS", 10)
    with pytest.raises(TraceError, match="too much to hold in memory: 11 requests") as caught:
        in_memory(rows(range(100)))
    assert caught.value.line == 11


def test_a_row_without_a_time() -> None:
    with pytest.raises(TraceError, match="no time stamp") as caught:
        list(in_order(rows([0.0, None])))
    assert caught.value.line == 2


def test_slices_count_from_their_beginning() -> None:
    assert times(sliced(rows([100.0, 104.0, 109.0, 110.0, 120.0]), (4.0, 10.0))) == [0.0, 5.0]
    assert times(sliced(rows([100.0, 104.0]), None)) == [0.0, 4.0]


def test_an_empty_slice_says_how_long_the_trace_is() -> None:
    with pytest.raises(TraceError, match=r"--slice: no request from second 50 to 60; the trace's last is at 20.0"):
        list(sliced(rows([100.0, 120.0]), (50.0, 60.0)))

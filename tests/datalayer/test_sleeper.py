from __future__ import annotations

import asyncio
import time

from pointsman.datalayer.sleeper import MIN_PAUSE, Sleeper


def slept(seconds: float, *, called_before: bool = False, called_after: float | None = None) -> float:
    async def main() -> float:
        sleeper = Sleeper()
        sleeper.begin()
        if called_before:
            sleeper.wake()
            sleeper.wake()
        if called_after is not None:
            asyncio.get_running_loop().call_later(called_after, sleeper.wake)
        start = time.monotonic()
        await sleeper.sleep(seconds)
        return time.monotonic() - start

    return asyncio.run(main())


def test_sleeps_as_long_as_it_should() -> None:
    assert slept(0.05) >= 0.045


def test_never_less_than_a_moment() -> None:
    assert slept(-1) >= 0.9 * MIN_PAUSE
    assert slept(30, called_before=True) >= 0.9 * MIN_PAUSE
    assert slept(30, called_after=0) >= 0.9 * MIN_PAUSE


def test_a_call_ends_it() -> None:
    assert slept(30, called_before=True) < 5
    assert slept(30, called_after=0.02) < 5


def test_calls_before_the_beginning_are_forgotten() -> None:
    async def main() -> None:
        sleeper = Sleeper()
        sleeper.wake()
        sleeper.begin()
        start = time.monotonic()
        await sleeper.sleep(0.05)
        assert time.monotonic() - start >= 0.045

    asyncio.run(main())


def test_a_late_call_for_an_old_sleep_does_not_cut_the_next() -> None:
    async def main() -> None:
        sleeper = Sleeper()
        asyncio.get_running_loop().call_later(0.001, sleeper.wake)
        await sleeper.sleep(0.0)
        sleeper.begin()
        start = time.monotonic()
        await sleeper.sleep(0.05)
        assert time.monotonic() - start >= 0.045

    asyncio.run(main())

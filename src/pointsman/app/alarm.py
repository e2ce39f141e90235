"""The watchdog's timer: SIGALRM, which interrupts even a plugin that sleeps or loops in Python.

Code of a C extension is interrupted when it returns. Signals are the main thread's alone: a picker that runs elsewhere
goes without, and only the soft budget between scorers holds.
"""

from __future__ import annotations

import atexit
import signal
import threading
from functools import partial
from types import FrameType

from pointsman.framework.watchdog import Watchdog, do_nothing

TICK_SECONDS = 0.02


def install(watchdog: Watchdog) -> bool:
    """Let the watchdog look at the clock while decisions are made; tells whether this is the main thread.

    The timer runs only while there is traffic: fifty ticks a second cost about a thousandth of a core.
    """
    if threading.current_thread() is not threading.main_thread():
        return False

    def on_alarm(_number: int, _frame: FrameType | None) -> None:
        watchdog.tick()

    signal.signal(signal.SIGALRM, on_alarm)
    # at its end the interpreter gives signals back their default, and that of an alarm is death
    atexit.register(_set_timer, 0.0)
    watchdog.use_timer(partial(_set_timer, TICK_SECONDS), partial(_set_timer, 0.0))
    return True


def uninstall(watchdog: Watchdog) -> None:
    """Stop the timer for good."""
    if threading.current_thread() is threading.main_thread():
        _set_timer(0.0)
        atexit.unregister(_set_timer)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    watchdog.use_timer(do_nothing, do_nothing)


def _set_timer(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)

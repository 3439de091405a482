"""Ctrl-C and SIGTERM as a wish to end well: what is written is finished first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_wished() -> Iterator[threading.Event]:
    """An event that the first signal sets; a second one ends the process."""
    wished = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield wished
        return

    def wish(*_: Any) -> None:
        wished.set()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, wish) for number in _SIGNALS}
    try:
        yield wished
    finally:
        restore()

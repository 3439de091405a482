"""Overlap the stages of a pipeline: each generator may run ahead in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar('T')
_END = object()


def in_background(items: Generator[T, None, None], ahead: int = 4) -> Iterator[T]:
    """The same items in the same order, made in a thread that runs ahead by a few.

    What the generator raises is raised here. Closing this iterator ends the thread.
    """
    waiting: queue.Queue[Any] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return

    def work() -> None:
        error: BaseException | None = None
        try:
            with contextlib.closing(items):
                for item in items:
                    put((item, None))
                    if stop.is_set():
                        return
        except BaseException as raised:
            error = raised
        put((_END, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        thread.join()

"""A bounded queue between two threads that can end and be given up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from szn_runtime.errors import InputError

__all__ = ["Cancelled", "Channel"]

T = TypeVar("T")


class Cancelled(Exception):  # noqa: N818 - no error: the reader is gone, so the writer may go too
    """Nobody takes what was put."""


class Channel(Generic[T]):
    """Hands items from one thread to another, in order.

    Args:
        capacity: Items that wait at most.
        newest: What a full channel does: False, the writer waits; True, the oldest item gives way,
            so that what is taken is never older than `capacity` items.
        on_drop: Called for each item that gave way.

    Raises:
        InputError: If the capacity is less than 1.
    """

    def __init__(
        self,
        capacity: int,
        *,
        newest: bool = False,
        on_drop: Callable[[], None] | None = None,
    ) -> None:
        if capacity < 1:
            raise InputError("channel has no room", got=capacity, expected=">= 1")
        self._capacity, self._newest, self._on_drop = capacity, newest, on_drop
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = self._cancelled = False

    def __len__(self) -> int:
        """Items that wait now."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Add an item, after waiting for room if need be.

        Raises:
            Cancelled: If the reader gave the channel up.
        """
        with self._changed:
            while len(self._items) >= self._capacity and not (self._newest or self._cancelled):
                self._changed.wait()
            if self._cancelled:
                raise Cancelled
            dropped = len(self._items) >= self._capacity
            if dropped:
                self._items.popleft()
            self._items.append(item)
            self._changed.notify_all()
        if dropped and self._on_drop is not None:
            self._on_drop()

    def close(self) -> None:
        """No more items will come; those that wait can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """No more items will be taken; those that wait are let go."""
        with self._changed:
            self._cancelled = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Take items until the channel is closed and empty, or cancelled."""
        while True:
            with self._changed:
                while not (self._items or self._closed or self._cancelled):
                    self._changed.wait()
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # a waiting reader keeps no frame alive

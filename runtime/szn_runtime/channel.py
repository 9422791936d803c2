"""Bounded queues between threads that can end and be given up, and several of them read as one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from szn_runtime.errors import InputError

__all__ = ["Cancelled", "Channel", "Junction"]

T = TypeVar("T")


class Cancelled(Exception):  # noqa: N818 - no error: the reader is gone, so the writer may go too
    """Nobody takes what was put."""


class Channel(Generic[T]):
    """Hands items from one thread to another, in order.

    Args:
        capacity: Items that wait at most.
        newest: What a full channel does: False, the writer waits; True, the oldest item gives way,
            so that what is taken is never older than `capacity` items.
        refill_at: Items that are left when a writer who found the channel full goes on; None: as
            soon as there is room for one.
        on_drop: Called for each item of a channel of the newest that is never taken.
        changed: Condition to share with other channels; None for one of its own.

    Raises:
        InputError: If the capacity is less than 1, or `refill_at` is not below it.
    """

    def __init__(
        self,
        capacity: int,
        *,
        newest: bool = False,
        refill_at: int | None = None,
        on_drop: Callable[[], None] | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        if capacity < 1:
            raise InputError("channel has no room", got=capacity, expected=">= 1")
        self._refill_at = capacity - 1 if refill_at is None else refill_at
        if not 0 <= self._refill_at < capacity:
            raise InputError(
                "refill_at is not below the capacity",
                got=refill_at,
                expected=f"0 to {capacity - 1}",
            )
        self._capacity, self.newest, self._on_drop = capacity, newest, on_drop
        self._items: deque[T] = deque()
        self._changed = changed or threading.Condition()
        self._closed = self._cancelled = False

    @property
    def open(self) -> bool:
        """Whether more items may come."""
        return not (self._closed or self._cancelled)

    def __len__(self) -> int:
        """Items that wait now."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Add an item, after waiting for room if need be.

        Raises:
            Cancelled: If the reader gave the channel up.
        """
        with self._changed:
            if len(self._items) >= self._capacity and not self.newest:
                while len(self._items) > self._refill_at and not self._cancelled:
                    self._changed.wait()
            cancelled = self._cancelled
            dropped = len(self._items) >= self._capacity or (cancelled and self.newest)
            if not cancelled:
                if dropped:
                    self._items.popleft()
                self._items.append(item)
                self._changed.notify_all()
        if dropped and self._on_drop is not None:
            self._on_drop()
        if cancelled:
            raise Cancelled

    def close(self) -> None:
        """No more items will come; those that wait can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """No more items will be taken; those that wait are let go."""
        with self._changed:
            self._cancelled = True
            dropped = len(self._items) if self.newest else 0
            self._items.clear()
            self._changed.notify_all()
        if self._on_drop is not None:
            for _ in range(dropped):
                self._on_drop()

    def pop(self) -> T:
        """Take the oldest item; for those who hold the condition and saw that there is one."""
        item = self._items.popleft()
        if len(self._items) <= self._refill_at:  # none but a writer waits for room
            self._changed.notify_all()
        return item

    def __iter__(self) -> Iterator[T]:
        """Take items until the channel is closed and empty, or cancelled."""
        while True:
            with self._changed:
                while not (self._items or self._closed or self._cancelled):
                    self._changed.wait()
                if not self._items:
                    return
                item = self.pop()
            yield item
            del item  # a waiting reader keeps no frame alive


class Junction(Generic[T]):
    """Several channels of one reader, each with the same right.

    Args:
        channels: At least one; all share the condition `changed`.
        changed: Their condition.
    """

    def __init__(self, channels: Sequence[Channel[T]], changed: threading.Condition) -> None:
        self._channels, self._changed = tuple(channels), changed
        self._turn = 0

    def take(self, most: int) -> list[tuple[int, T]]:
        """Wait for items and take some, from each channel in turn.

        With an item of a channel that keeps only the newest, what is there is taken at once.
        Otherwise this waits until there are `most` items, or no more can come.

        Args:
            most: Items to take at most.

        Returns:
            The number of each item's channel and the item, in the order of each channel; nothing
            once all channels have ended.
        """
        with self._changed:
            while not self._ready(most):
                self._changed.wait()
            taken: list[tuple[int, T]] = []
            count = len(self._channels)
            empty = 0
            while len(taken) < most and empty < count:
                number, self._turn = self._turn, (self._turn + 1) % count
                channel = self._channels[number]
                empty = 0 if len(channel) else empty + 1
                if len(channel):
                    taken.append((number, channel.pop()))
            return taken

    def _ready(self, most: int) -> bool:
        waiting = sum(map(len, self._channels))
        if waiting >= most or any(c.newest and len(c) for c in self._channels):
            return True
        patient = any(c.open for c in self._channels if not c.newest)
        return not patient and (waiting > 0 or not any(c.open for c in self._channels))

    def cancel(self, number: int | None = None) -> None:
        """Give up all channels, or one of them."""
        for channel in self._channels if number is None else (self._channels[number],):
            channel.cancel()

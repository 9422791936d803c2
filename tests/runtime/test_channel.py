from __future__ import annotations

import threading

import pytest

from szn_runtime.channel import Cancelled, Channel
from szn_runtime.errors import InputError

PATIENCE_S = 10.0


def test_items_come_in_order_and_the_end_after_them() -> None:
    channel: Channel[int] = Channel(3)
    for item in range(3):
        channel.put(item)
    channel.close()
    assert list(channel) == [0, 1, 2]


def test_a_full_channel_makes_the_writer_wait() -> None:
    channel: Channel[int] = Channel(2)
    taken: list[int] = []

    def write() -> None:
        for item in range(100):
            channel.put(item)
        channel.close()

    writer = threading.Thread(target=write)
    writer.start()
    for item in channel:
        taken.append(item)
        assert len(channel) <= 2
    writer.join(PATIENCE_S)
    assert taken == list(range(100))


def test_the_newest_item_wins_and_the_others_are_counted() -> None:
    dropped: list[None] = []
    channel: Channel[int] = Channel(1, newest=True, on_drop=lambda: dropped.append(None))
    for item in range(5):
        channel.put(item)
    channel.close()
    assert list(channel) == [4]
    assert len(dropped) == 4


def test_cancelling_frees_a_waiting_writer() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(0)
    raised: list[BaseException] = []

    def write() -> None:
        try:
            channel.put(1)
        except Cancelled as error:
            raised.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    channel.cancel()
    writer.join(PATIENCE_S)
    assert not writer.is_alive()
    assert len(raised) == 1
    assert list(channel) == []
    with pytest.raises(Cancelled):
        channel.put(2)


def test_closing_frees_a_waiting_reader() -> None:
    channel: Channel[int] = Channel(1)
    taken: list[list[int]] = []
    reader = threading.Thread(target=lambda: taken.append(list(channel)))
    reader.start()
    channel.put(7)
    channel.close()
    reader.join(PATIENCE_S)
    assert taken == [[7]]


def test_a_channel_without_room_is_refused() -> None:
    with pytest.raises(InputError, match="channel has no room: got 0"):
        Channel(0)

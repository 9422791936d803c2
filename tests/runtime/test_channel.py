from __future__ import annotations

import threading

import pytest

from szn_runtime.channel import Cancelled, Channel, Junction
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


def test_a_full_channel_is_refilled_when_few_items_are_left() -> None:
    channel: Channel[int] = Channel(4, refill_at=1)
    put = threading.Semaphore(0)

    def write() -> None:
        for item in range(8):
            channel.put(item)
            put.release()
        channel.close()

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(4):
        assert put.acquire(timeout=PATIENCE_S)
    taking = iter(channel)
    assert [next(taking), next(taking)] == [0, 1]
    assert not put.acquire(timeout=0.05)  # there is room, but not few enough are left
    assert len(channel) == 2
    assert next(taking) == 2
    for _ in range(3):
        assert put.acquire(timeout=PATIENCE_S)
    assert list(taking) == [3, 4, 5, 6, 7]
    writer.join(PATIENCE_S)


@pytest.mark.parametrize("refill_at", [-1, 4, 5])
def test_a_level_that_is_never_below_full_is_refused(refill_at: int) -> None:
    with pytest.raises(
        InputError, match=f"not below the capacity: got {refill_at}, expected 0 to 3"
    ):
        Channel(4, refill_at=refill_at)


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


def test_what_is_never_taken_of_the_newest_is_counted() -> None:
    dropped: list[None] = []
    channel: Channel[int] = Channel(1, newest=True, on_drop=lambda: dropped.append(None))
    channel.put(0)
    channel.cancel()
    with pytest.raises(Cancelled):
        channel.put(1)
    assert len(dropped) == 2
    patient: Channel[int] = Channel(2, on_drop=lambda: dropped.append(None))
    patient.put(0)
    patient.cancel()
    with pytest.raises(Cancelled):
        patient.put(1)
    assert len(dropped) == 2


def junction_of(*newest: bool) -> tuple[list[Channel[str]], Junction[str]]:
    changed = threading.Condition()
    channels: list[Channel[str]] = [
        Channel(1 if each else 4, newest=each, changed=changed) for each in newest
    ]
    return channels, Junction(channels, changed)


class TestJunction:
    def test_channels_take_turns(self) -> None:
        (a, b), junction = junction_of(False, False)
        for item in ("a0", "a1", "a2"):
            a.put(item)
        b.put("b0")
        assert junction.take(3) == [(0, "a0"), (1, "b0"), (0, "a1")]
        b.put("b1")
        assert junction.take(1) == [(1, "b1")]
        assert junction.take(1) == [(0, "a2")]

    def test_a_batch_is_full_or_the_last(self) -> None:
        (a, b), junction = junction_of(False, False)
        a.put("a0")
        a.close()
        taken: list[list[tuple[int, str]]] = []
        reader = threading.Thread(target=lambda: taken.append(junction.take(3)))
        reader.start()
        reader.join(0.05)
        assert reader.is_alive()  # b may still give more
        b.put("b0")
        b.close()
        reader.join(PATIENCE_S)
        assert taken == [[(0, "a0"), (1, "b0")]]
        assert junction.take(3) == []

    def test_a_live_item_waits_for_nobody(self) -> None:
        (live, file), junction = junction_of(True, False)
        file.put("f0")
        live.put("l0")
        live.put("l1")
        assert junction.take(4) == [(0, "l1"), (1, "f0")]
        live.close()
        file.close()
        assert junction.take(4) == []

    def test_giving_up(self) -> None:
        (a, b), junction = junction_of(False, False)
        junction.cancel(0)
        with pytest.raises(Cancelled):
            a.put("a0")
        b.put("b0")
        junction.cancel()
        with pytest.raises(Cancelled):
            b.put("b1")
        assert junction.take(1) == []

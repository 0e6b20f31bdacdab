"""Queues between MQTT and the writer: bounded, fair, and quick for an alarm."""

from __future__ import annotations

import asyncio

import pytest
from trisense.core.topics import Lane
from trisense.gateway.intake import Delivery
from trisense.gateway.lanes import BOUND_BYTES, Lanes


def delivery(lane: Lane, size: int = 100) -> Delivery:
    return Delivery("kx-001", lane, bytes(size))


def lanes_of(deliveries: list[Delivery]) -> list[Lane]:
    return [d.lane for d in deliveries]


async def test_an_alarm_goes_alone_and_first() -> None:
    lanes = Lanes()
    for lane in (Lane.BACKLOG, Lane.MEDIA, Lane.LIVE, Lane.ALARM, Lane.ALARM):
        lanes.put(delivery(lane))
    assert lanes_of(await lanes.take()) == [Lane.ALARM, Lane.ALARM]
    assert set(lanes_of(await lanes.take())) == {Lane.LIVE, Lane.BACKLOG, Lane.MEDIA}


async def test_a_backlog_does_not_wait_for_alarms_that_may_come() -> None:
    lanes = Lanes()
    lanes.put(delivery(Lane.BACKLOG))
    taking = asyncio.create_task(lanes.take())
    await asyncio.sleep(0)
    lanes.put(delivery(Lane.ALARM))
    assert lanes_of(await taking) == [Lane.BACKLOG]


async def test_an_alarm_ends_the_wait_for_company() -> None:
    lanes = Lanes()
    lanes.put(delivery(Lane.LIVE))
    taking = asyncio.create_task(lanes.take())
    await asyncio.sleep(0)
    lanes.put(delivery(Lane.ALARM))
    assert lanes_of(await taking) == [Lane.ALARM]


@pytest.mark.parametrize("lane", list(Lane))
async def test_a_full_lane_drops_the_newest_counts_it_and_costs_no_other(lane: Lane) -> None:
    lanes = Lanes()
    size = 256 * 1024
    room = BOUND_BYTES[lane] // size
    kept = [lanes.put(delivery(lane, size)) for _ in range(room + 3)]
    assert kept == [True] * room + [False] * 3
    assert lanes.dropped == {lane.value: 3}
    assert all(lanes.put(delivery(other)) for other in Lane if other is not lane)


async def test_each_lane_has_a_share_of_every_group_and_at_least_one_message() -> None:
    lanes = Lanes()
    for _ in range(20):
        for lane in (Lane.LIVE, Lane.BACKLOG, Lane.MEDIA):
            lanes.put(delivery(lane, 200 * 1024))
    group = lanes_of(await lanes.take())
    assert (group.count(Lane.LIVE), group.count(Lane.BACKLOG), group.count(Lane.MEDIA)) == (5, 1, 10)


async def test_closed_it_gives_what_is_left_and_then_nothing() -> None:
    lanes = Lanes()
    lanes.put(delivery(Lane.BACKLOG))
    lanes.put(delivery(Lane.LIVE))
    lanes.close()
    assert not lanes.put(delivery(Lane.ALARM))
    assert lanes_of(await lanes.take()) == [Lane.LIVE, Lane.BACKLOG]
    assert await lanes.take() == []

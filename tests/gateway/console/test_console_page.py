"""The page, in a real Chromium."""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageDraw
from trisense.core.model import Field, FieldType, Layer, Stream, Value
from trisense.core.vocabulary import field
from trisense.gateway.stores.base import NotSupported, Table

if TYPE_CHECKING:
    from tests.gateway.console.conftest import Page, Street

pytestmark = pytest.mark.peer

WEATHER = Stream(
    "weather",
    "weather",
    Layer.GROUND,
    (field("air_temperature"), field("relative_humidity"), Field("status", "", FieldType.STR)),
)
HOURLY = Stream("gauge", "rain", Layer.GROUND, (field("rain_amount"),))
CAMERA = Stream("cam", "camera_frame", Layer.GROUND, (Field("sharpness", "1"),))
HOSTILE = "<img src=x onerror=document.title=1>"
INKED = """selector => {
    // Columns of the canvas that hold the line's colour: much greener than red.
    const canvas = document.querySelector(selector), {width, height} = canvas;
    const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
    const inked = x => Array.from({length: height}, (_, y) => 4 * (y * width + x))
        .some(i => data[i + 3] > 128 && data[i + 1] - data[i] > 50);
    return Array.from({length: width}, (_, x) => x).filter(inked);
}"""


@asynccontextmanager
async def readings(street: Street, box: str = "kx-001", *, every_s: float = 0.2) -> AsyncIterator[None]:
    """Feed rising temperatures while the block runs."""

    async def feed() -> None:
        for i in itertools.count():
            street.read(box, WEATHER, {"air_temperature": 20 + i / 10, "relative_humidity": 60.0})
            await asyncio.sleep(every_s)

    task = asyncio.create_task(feed())
    try:
        yield
    finally:
        task.cancel()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def picture(text: str = "") -> bytes:
    """A JPEG of 640 x 480 pixels."""
    image = Image.new("RGB", (640, 480), "#446688")
    ImageDraw.Draw(image).text((20, 20), text, fill="white")
    target = io.BytesIO()
    image.save(target, "JPEG")
    return target.getvalue()


def row(field_name: str) -> str:
    """JavaScript for a row of the table of latest values."""
    return f"document.querySelector('th[title=\"{field_name}\"]')?.closest('tr')"


def cell(field_name: str, column: str) -> str:
    """JavaScript for the text of one of its cells."""
    return f"{row(field_name)}?.querySelector('.{column}')?.textContent"


async def test_values_change_as_they_come_and_no_rule_of_the_policy_is_broken(
    street: Street, page: Page
) -> None:
    street.box("kx-001", at=(31.2, 121.5))
    await street.start()
    async with readings(street):
        await page.open(street.address)
        first = await page.until(cell("air_temperature", "value"))
        await page.until(f"{cell('air_temperature', 'value')} > {first}")
        assert await page.do(cell("air_temperature", "unit")) == "°C"
        assert await page.do(cell("air_temperature", "quality")) == "good"
        await page.until("document.querySelector('#link').textContent.includes('live')")
        assert await page.do("document.querySelector('#summary').textContent") == "1 box, all online"
        await page.until("document.querySelectorAll('#map .box-marker .status.online').length == 1")
    assert page.problems == []


async def test_names_from_devices_are_text_and_never_markup(street: Street, page: Page) -> None:
    evil = Stream(HOSTILE, HOSTILE, Layer.GROUND, (Field(HOSTILE, HOSTILE), Field("text", "", FieldType.STR)))
    street.box(HOSTILE, at=(31.2, 121.5), site=HOSTILE)
    street.read(HOSTILE, evil, {HOSTILE: 1.5, "text": HOSTILE})
    street.frame(HOSTILE, evil, picture())
    street.live.note_alarm(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, device=HOSTILE)
    await street.start()
    await page.open(street.address)
    await page.until(f"document.querySelector('#values').textContent.includes({HOSTILE!r})")
    for part in (
        "#boxes",
        "#map",
        "#cameras",
        "#alarms-head",
        "#alarms-list",
        "#field-choice",
        "#box-choice",
    ):
        await page.until(f"document.querySelector('{part}').textContent.includes('onerror')")
    assert await page.do("document.querySelectorAll('img[onerror]').length") == 0
    assert await page.do("document.title") == "trisense"
    assert page.problems == []


async def test_a_bad_reading_keeps_the_last_good_value_and_says_so(street: Street, page: Page) -> None:
    street.box("kx-001")
    street.read("kx-001", WEATHER, {"air_temperature": 20.5}, time_ms=now_ms() - 90_000)
    street.read("kx-001", WEATHER, {"air_temperature": None}, flags={"air_temperature": 9})
    await street.start()
    await page.open(street.address)
    await page.until(f"{cell('air_temperature', 'value')} == '20.5'")
    assert await page.do(cell("air_temperature", "quality")) == "missing"
    assert 85 <= int((await page.do(cell("air_temperature", "age"))).removesuffix(" s")) <= 120


async def test_a_value_older_than_the_pace_of_its_stream_is_marked_as_old(street: Street, page: Page) -> None:
    street.box("kx-001")
    for age_s in (61, 60):
        street.read("kx-001", WEATHER, {"air_temperature": 20.5}, time_ms=now_ms() - 1000 * age_s)
    for age_s in (7200, 3600):
        street.read("kx-001", HOURLY, {"rain_amount": 0.5}, time_ms=now_ms() - 1000 * age_s)
    await street.start()
    await page.open(street.address)
    await page.until(f"{row('air_temperature')}?.classList.contains('old')")
    assert not await page.do(f"{row('rain_amount')}.classList.contains('old')")


async def test_silence_of_the_gateway_is_shown_and_mends_itself(street: Street, page: Page) -> None:
    street.box("kx-001", at=(31.2, 121.5))
    street.read("kx-001", WEATHER, {"air_temperature": 20.5})
    await street.start()
    await page.open(street.address)
    await page.until("document.querySelector('#link').textContent.includes('live')")

    await street.stop()
    await page.until("document.querySelector('#banner').checkVisibility()")
    assert "Nothing heard from the gateway" in await page.do("document.querySelector('#banner').textContent")
    assert await page.do("document.body.classList.contains('stale')")
    assert await page.do(cell("air_temperature", "value")) == "20.5"

    street.restart_live()
    street.box("kx-001", at=(31.2, 121.5))
    street.read("kx-001", WEATHER, {"air_temperature": 21.5})
    await street.start()
    await page.until("!document.querySelector('#banner').checkVisibility()")
    await page.until(f"{cell('air_temperature', 'value')} == '21.5'")
    assert not await page.do("document.body.classList.contains('stale')")


async def test_an_alarm_is_told_while_the_page_looks(street: Street, page: Page) -> None:
    street.box("kx-001")
    await street.start()
    await page.open(street.address)
    await page.until("document.querySelector('#link').textContent.includes('live')")
    assert not await page.do("document.querySelector('#alarms').checkVisibility()")
    street.live.note_alarm("kx-001", "loss", {"samples": 12, "reason": "cap"})
    await page.until("document.querySelector('#alarms-head').checkVisibility()")
    assert "samples 12, reason cap" in await page.do("document.querySelector('#alarms-list').textContent")


async def test_an_alarm_of_a_rule_reads_as_a_sentence_and_its_end_is_shown_as_one(
    street: Street, page: Page
) -> None:
    street.box("kx-001")
    await street.start()
    await page.open(street.address)
    await page.until("document.querySelector('#link').textContent.includes('live')")
    row: dict[str, Value] = {
        "rule": "dusty", "kind": "threshold", "priority": "high", "state": "raised", "source": "dust",
        "measurement": "air_quality", "field": "pm2_5", "value": 160.5, "limit": 100.0, "unit": "ug/m3",
        "since": "2026-11-23T08:00:00.000+00:00", "occurrence": 1, "held": 0, "message": "Close the windows",
    }  # fmt: skip
    street.live.note_alarm("kx-001", "alarm", row, device="box", time_ms=now_ms() - 2000)
    await page.until("document.querySelector('#alarms-head').textContent.includes('1 active')")
    told = await page.do("document.querySelector('#alarms-list li.raised').textContent")
    assert "▲ high kx-001 dust" in told
    assert "Close the windows, PM2.5 160.5 µg/m³ (limit 100 µg/m³), since " in told

    street.live.note_alarm("kx-001", "alarm", row | {"state": "cleared", "value": 20.0}, device="box")
    await page.until("document.querySelector('#alarms-head').classList.contains('cleared')")
    head = await page.do("document.querySelector('#alarms-head').textContent")
    assert "active" not in head
    assert "✓ cleared kx-001 dust" in head
    assert "✓ cleared" in await page.do("document.querySelector('#alarms-list li.cleared').textContent")
    assert page.problems == []


async def test_an_alarm_that_goes_on_stands_first_however_much_was_told_since(
    street: Street, page: Page
) -> None:
    street.box("kx-001")
    row: dict[str, Value] = {"rule": "dusty", "state": "raised", "source": "dust", "priority": "high"}
    street.live.note_alarm("kx-001", "alarm", row, device="box", time_ms=now_ms() - 3_600_000)
    for _ in range(1_100):
        street.live.note_alarm("kx-001", "loss", {"samples": 1})
    await street.start()
    await page.open(street.address)
    await page.until("document.querySelector('#alarms-head').textContent.includes('1 active')")
    street.live.note_alarm("kx-001", "loss", {"samples": 2})
    await page.until("document.querySelector('#alarms-list').textContent.includes('samples 2')")
    assert "1 active" in await page.do("document.querySelector('#alarms-head').textContent")
    assert "kx-001 dust" in await page.do("document.querySelector('#alarms-list li').textContent")
    assert page.problems == []


async def test_a_page_that_lost_a_delta_loads_the_snapshot_again(street: Street, page: Page) -> None:
    street.box("kx-001")
    street.read("kx-001", WEATHER, {"air_temperature": 20.5})
    await street.start()
    await page.open(street.address)
    await page.do("""(async () => {
        const { Link } = await import("/static/link.js");
        const { Model } = await import("/static/model.js");
        window.model = new Model();
        window.link = new Link(model, () => {}, () => {});
    })()""")
    await page.until("model.streams.size == 1")
    empty = "kind: 'delta', now_ms: 0, boxes: {}, streams: []"
    await page.do("model.streams.clear()")
    await page.do(f"link.hear({{{empty}, after: model.seq, seq: model.seq}})")
    assert await page.do("model.streams.size") == 0
    await page.do(f"link.hear({{{empty}, after: model.seq + 5, seq: model.seq + 6}})")
    await page.until("model.streams.size == 1")

    await page.until("!link.loading")
    await page.do("model.streams.clear(), model.generation = 'of a gateway that is gone', model.seq = 1e6")
    await page.do(f"link.hear({{{empty}, after: 1, seq: 1}})")
    await page.until("model.streams.size == 1")


async def test_a_frame_is_fetched_only_where_it_can_be_seen_and_enlarged_on_request(
    street: Street, page: Page
) -> None:
    await page.size(390, 400)
    street.box("kx-001")
    street.read("kx-001", WEATHER, {"air_temperature": 20.5})
    first = street.frame("kx-001", CAMERA, picture("first"))
    await street.start()
    await page.open(street.address)
    await page.until("document.querySelector('#cameras .camera') != null")
    assert not await page.do("document.querySelector('#cameras img').hasAttribute('src')")

    await page.do("document.querySelector('#cameras').scrollIntoView()")
    await page.until(f"document.querySelector('#cameras img').src.endsWith('thumbnail/{first}')")
    await page.until("document.querySelector('#cameras img').naturalWidth == 480")
    second = street.frame("kx-001", CAMERA, picture("second"))
    await page.until(f"document.querySelector('#cameras img').src.endsWith('thumbnail/{second}')")

    await page.do("document.querySelector('#cameras button').click()")
    await page.until("document.querySelector('dialog img').naturalWidth == 640")
    assert page.problems == []


async def test_the_chart_draws_history_and_leaves_a_gap_where_there_was_none(
    street: Street, page: Page
) -> None:
    street.box("kx-001")
    now = now_ms()
    for second in range(400):
        if not 100 < second < 200:
            street.read(
                "kx-001", WEATHER, {"air_temperature": 20 + second / 100}, time_ms=now - 1000 * second
            )
    await street.start()
    await page.open(street.address)
    await page.until("document.querySelector('#chart canvas') != null")
    await page.until(f"({INKED})('#chart canvas').length > 100")
    columns = await page.do(f"({INKED})('#chart canvas')")
    gaps = [b - a for a, b in itertools.pairwise(columns) if b - a > 20]
    assert len(gaps) == 1


async def test_a_store_without_history_is_said_and_the_chart_goes_on_with_what_comes(
    street: Street, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> Table:
        raise NotSupported("it cannot")

    monkeypatch.setattr(street.memory, "aggregate", refuse)
    street.box("kx-001")
    street.read("kx-001", WEATHER, {"air_temperature": 20.5})
    await street.start()
    await page.open(street.address)
    await page.until("document.querySelector('#chart-note').textContent.includes('it cannot')")
    async with readings(street):
        await page.until("!document.querySelector('#chart-note').checkVisibility()")
        await page.until(f"({INKED})('#chart canvas').length > 2")


async def test_the_chart_can_be_read_and_chosen_with_the_keyboard(street: Street, page: Page) -> None:
    street.box("kx-001")
    for second in range(60):
        street.read(
            "kx-001",
            WEATHER,
            {"air_temperature": 20.5, "relative_humidity": 60},
            time_ms=now_ms() - 1000 * second,
        )
    await street.start()
    await page.open(street.address)
    await page.until("document.querySelector('#now').textContent == '20.5'")
    await page.until(f"({INKED})('#chart canvas').length > 20")
    await page.do("document.querySelector('#chart').focus()")
    await page.press("ArrowLeft")
    await page.until("document.querySelector('#readout').textContent.includes('20.5 °C')")

    await page.do("document.querySelector('th[title=relative_humidity] button').focus()")
    await page.press("Enter")
    await page.until("document.querySelector('#now').textContent == '60'")
    assert "relative_humidity" in await page.do("location.hash")


async def test_a_box_is_chosen_on_the_map_and_tells_its_state_by_shape(street: Street, page: Page) -> None:
    street.box("kx-001", at=(31.20, 121.50))
    street.box("kx-002", at=(31.21, 121.51), online=False)
    street.read("kx-001", WEATHER, {"air_temperature": 20.5})
    street.read("kx-002", WEATHER, {"air_temperature": 12.5})
    await street.start()
    await page.open(street.address)
    await page.until("document.querySelectorAll('#map .box-marker').length == 2")
    shapes = await page.do(
        "[...document.querySelectorAll('#map .status path')].map(path => path.getAttribute('d'))"
    )
    assert len(set(shapes)) == 2
    await page.do("document.querySelector('#map .offline').closest('.leaflet-marker-icon').click()")
    await page.until(f"{cell('air_temperature', 'value')} == '12.5'")


async def test_a_phone_needs_no_sideways_scrolling(street: Street, page: Page) -> None:
    await page.size(390, 844, mobile=True)
    street.box("kx-001", at=(31.2, 121.5))
    street.read("kx-001", WEATHER, {"air_temperature": 20.5, "relative_humidity": 55.5, "status": "x" * 200})
    street.frame("kx-001", CAMERA, picture())
    await street.start()
    await page.open(street.address)
    await page.until(cell("air_temperature", "value"))
    assert await page.do("document.documentElement.scrollWidth") == 390

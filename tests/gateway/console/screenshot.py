"""Takes a picture of the console, over a made-up street or of one that runs already (--url).

From the repository's root: python -m tests.gateway.console.screenshot OUT.png [--dark] [--phone]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import math
import random
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from trisense.core.model import Field, FieldType, Layer, Stream
from trisense.core.vocabulary import field

from tests.gateway.console.conftest import Page, Street, chromium, now_ms, tab

PLACES = {
    "kx-001": (31.2397, 121.4998),
    "kx-002": (31.2356, 121.5055),
    "kx-003": (31.2302, 121.4921),
    "kx-004": (31.2278, 121.5079),
    "kx-005": (31.2421, 121.5121),
}
WEATHER = Stream(
    "weather",
    "weather",
    Layer.GROUND,
    tuple(
        field(name)
        for name in (
            "air_temperature",
            "relative_humidity",
            "barometric_pressure",
            "wind_speed",
            "wind_direction",
            "rain_rate",
            "illuminance",
            "uv_index",
        )
    ),
)
DUST = Stream("dust", "air_quality", Layer.GROUND, tuple(field(n) for n in ("pm1", "pm2_5", "pm10")))
RADAR = Stream(
    "radar",
    "radar_target",
    Layer.GROUND,
    (Field("track", "1", FieldType.INT), Field("x", "mm"), Field("y", "mm"), Field("speed", "cm/s")),
)
TAGS = Stream(
    "gate",
    "tag",
    Layer.GROUND,
    (Field("epc", "", FieldType.STR), Field("rssi", "dBm"), Field("antenna", "1")),
)
CAMERA = Stream(
    "crossing-cam", "camera_frame", Layer.GROUND, (Field("sharpness", "1"), Field("exposure", "%"))
)
AIRCRAFT = Stream(
    "adsb",
    "aircraft",
    Layer.AIR,
    (Field("icao", "", FieldType.STR), field("latitude"), field("longitude"), Field("altitude", "[ft_i]")),
)
NDVI = Stream("ndvi", "vegetation", Layer.SKY, (Field("ndvi", "1"), Field("cloud_cover", "%")))
DRIVERS = [
    (WEATHER, "modbus:ecowitt-ws90"),
    (DUST, "plantower"),
    (RADAR, "ld2450"),
    (TAGS, "llrp"),
    (CAMERA, "http-camera"),
    (AIRCRAFT, "adsb"),
    (NDVI, "ndvi-scenes"),
]


def read_all(street: Street, name: str, at_ms: int, rng: random.Random) -> None:
    """One second of one box."""
    t = at_ms / 1000
    phase = sum(map(ord, name)) % 7
    temperature = 17.5 + 1.4 * math.sin(t / 140 + phase) + 0.2 * math.sin(t / 11) + rng.gauss(0, 0.03)
    dust = 28 + 7 * math.sin(t / 60 + phase) + rng.gauss(0, 1)
    street.read(
        name,
        WEATHER,
        {
            "air_temperature": round(temperature, 1),
            "relative_humidity": round(66 - temperature / 3, 0),
            "barometric_pressure": round(1017.3 + 0.2 * math.sin(t / 400), 1),
            "wind_speed": round(abs(2.4 + rng.gauss(0, 0.4)), 1),
            "wind_direction": round((140 + 20 * math.sin(t / 50)) % 360),
            "rain_rate": 0.0,
            "illuminance": round(21_400 + 600 * math.sin(t / 90)),
            "uv_index": 16.2,
        },
        time_ms=at_ms,
        flags={"uv_index": 3} if name == "kx-001" else None,
    )
    street.read(
        name, DUST, {"pm1": round(dust * 0.7), "pm2_5": round(dust), "pm10": round(dust * 1.4)}, time_ms=at_ms
    )
    street.read(
        name,
        RADAR,
        {"track": 1, "x": round(rng.uniform(-900, 900)), "y": 3120, "speed": round(rng.gauss(640, 60))},
        time_ms=at_ms,
    )
    if rng.random() < 0.2:
        street.read(
            name,
            TAGS,
            {"epc": f"3034257BF7194E40{rng.randrange(2**32):08X}", "rssi": -61.5, "antenna": 2},
            time_ms=at_ms,
        )
    street.read(
        name,
        AIRCRAFT,
        {"icao": "780a3c", "latitude": 31.1842 + t % 600 / 4e3, "longitude": 121.4413, "altitude": 8475},
        time_ms=at_ms,
    )


def crossing(name: str, rng: random.Random) -> bytes:
    """A street corner, as far as a few rectangles can be one."""
    image = Image.new("RGB", (640, 480), "#9fb4c4")
    draw = ImageDraw.Draw(image)
    for x in range(0, 640, 80):
        top = rng.randrange(60, 190)
        draw.rectangle((x, top, x + 72, 260), fill=rng.choice(["#6d7780", "#7d858c", "#8b8f8c", "#5c666e"]))
        for y in range(top + 10, 250, 22):
            for window in range(x + 8, x + 64, 18):
                draw.rectangle(
                    (window, y, window + 9, y + 12), fill=rng.choice(["#46505a", "#b9c4b0", "#46505a"])
                )
    draw.polygon([(0, 480), (250, 250), (390, 250), (640, 480)], fill="#3f4549")
    draw.rectangle((0, 250, 640, 262), fill="#8d8f86")
    for i in range(6):
        draw.polygon(
            [
                (312 - i, 270 + i * 38),
                (328 + i, 270 + i * 38),
                (332 + i, 288 + i * 38),
                (308 - i, 288 + i * 38),
            ],
            fill="#d8d8d0",
        )
    for _ in range(5):
        x, y = rng.randrange(180, 440), rng.randrange(275, 420)
        w = (y - 230) // 3
        draw.rounded_rectangle(
            (x, y, x + w, y + w * 2 // 3), 5, fill=rng.choice(["#a33", "#eee", "#335c8a", "#222"])
        )
    draw.text((10, 462), name, fill="white")
    target = io.BytesIO()
    image.save(target, "JPEG", quality=80)
    return target.getvalue()


async def feed(street: Street) -> None:
    rng = random.Random(7)
    start = now_ms() // 1000 * 1000
    for name, at in PLACES.items():
        street.devices(name, DRIVERS)
        street.box(name, at=at, site="lujiazui", online=name != "kx-005")
        for second in range(600, 0, -1):
            if not 215 < second < 270:  # a link that was down, to show a gap
                read_all(street, name, start - second * 1000, rng)
        street.read(name, NDVI, {"ndvi": 0.4132, "cloud_cover": 3.1}, time_ms=start - 6 * 86_400_000)
        if name != "kx-005":
            street.frame(name, CAMERA, crossing(f"{name} crossing-cam", rng))
            street.read(name, CAMERA, {"sharpness": 182.4, "exposure": 46.2})
    street.live.note_alarm(
        "kx-005", "loss", {"samples": 420, "reason": "cap", "stream": "crossing-cam/camera_frame"}
    )
    while True:
        for name in list(PLACES)[:4]:
            read_all(street, name, now_ms(), rng)
            street.live.note_seen(name, "lujiazui", next(iter(street.live.counters()[name].values())))
        await asyncio.sleep(1)


async def take(options: argparse.Namespace) -> None:
    street = Street()
    feeding = None
    if options.url is None:
        feeding = asyncio.create_task(feed(street))
        await asyncio.sleep(0)
        await street.start()
    with tempfile.TemporaryDirectory() as scratch, chromium(Path(scratch)) as browser:
        async with tab(browser) as page:
            await photograph(page, options.url or street.address, options)
    if feeding is not None:
        feeding.cancel()
        await street.stop()


async def photograph(page: Page, address: str, options: argparse.Namespace) -> None:
    width, height = map(int, ("390x844" if options.phone else options.size).split("x"))
    await page.size(width, height, mobile=options.phone, scale=2 if options.phone else 1)
    await page.dark(options.dark)
    await page.open(address)
    await page.until("document.querySelectorAll('#values tbody').length > 0")
    await asyncio.sleep(options.wait)
    await page.do(options.script)
    options.out.write_bytes(shrunk(await page.screenshot(whole=options.phone)))
    print(*page.problems, sep="\n")


def shrunk(png: bytes) -> bytes:
    """The same picture in 256 colours: a third of the bytes, and nobody sees it."""
    target = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(256).save(target, "PNG", optimize=True)
    return target.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url")
    parser.add_argument("--size", default="1400x900")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--phone", action="store_true")
    parser.add_argument("--wait", type=float, default=4, help="seconds to look before the picture")
    parser.add_argument("--script", default="0", help="JavaScript to run before the picture")
    asyncio.run(take(parser.parse_args()))


if __name__ == "__main__":
    main()

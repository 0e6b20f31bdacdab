"""The simulated camera, asked by an HTTP client that knows nothing of it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from trisense.sims.base import Faults, Truth, World
from trisense.sims.camera import SnapshotCamera, View, digest_response

NS = 1_000_000_000
JULY_NOON_NS = 1_784_286_000 * NS
JULY_NIGHT_NS = JULY_NOON_NS + 12 * 3600 * NS


def camera(faults: str = "", *, truth: Truth | None = None, **options: Any) -> SnapshotCamera:
    options = {"width": 320, "height": 180, **options}
    return SnapshotCamera(
        world=World(1),
        truth=truth or Truth(),
        faults=Faults.parse(faults),
        seed=1,
        name="cam",
        **options,
    )


@asynccontextmanager
async def client_of(sim: SnapshotCamera, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        sim.serving() as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=5, **options
        ) as client,
    ):
        yield client


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).astype(int)


def test_digest_responses_agree_with_the_standard_example() -> None:
    response = digest_response(
        user="Mufasa",
        password="Circle Of Life",
        realm="testrealm@host.com",
        nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093",
        uri="/dir/index.html",
        method="GET",
        qop="auth",
        nc="00000001",
        cnonce="0a4f113b",
    )

    assert response == "6629fae49393a05397450978507c4ef1"


async def test_a_get_answers_with_a_jpeg_and_the_connection_stays() -> None:
    async with client_of(camera()) as client:
        first = await client.get("/snapshot.jpg")
        second = await client.get("/snapshot.jpg?channel=1")

    assert first.headers["content-type"] == "image/jpeg"
    assert pixels(first.content).shape == pixels(second.content).shape == (180, 320)


async def test_other_paths_and_methods_are_refused() -> None:
    async with client_of(camera()) as client:
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/snapshot.jpg")).status_code == 405
        assert (await client.get("/snapshot.jpg", headers={"x": "y" * 20_000})).status_code == 431


async def test_digest_lets_in_who_knows_the_password_only() -> None:
    sim = camera(username="Mufasa", password="Circle Of Life")
    async with client_of(sim, auth=httpx.DigestAuth("Mufasa", "Circle Of Life")) as client:
        assert (await client.get("/snapshot.jpg")).status_code == 200
    async with client_of(sim, auth=httpx.DigestAuth("Mufasa", "wrong")) as client:
        assert (await client.get("/snapshot.jpg")).status_code == 401
    async with client_of(sim, auth=httpx.BasicAuth("Mufasa", "Circle Of Life")) as client:
        assert (await client.get("/snapshot.jpg")).status_code == 401


async def test_an_answer_to_another_challenge_is_refused() -> None:
    sim = camera(username="Mufasa", password="Circle Of Life")
    question = {
        "realm": "camera",
        "nonce": "stale",
        "uri": "/snapshot.jpg",
        "qop": "auth",
        "nc": "1",
        "cnonce": "c",
    }
    response = digest_response(user="Mufasa", password="Circle Of Life", method="GET", **question)
    header = "Digest " + ", ".join(f'{key}="{value}"' for key, value in question.items())
    async with client_of(sim) as client:
        answer = await client.get(
            "/snapshot.jpg", headers={"Authorization": f'{header}, username="Mufasa", response="{response}"'}
        )

    assert answer.status_code == 401


def test_the_same_moment_looks_the_same_and_another_does_not() -> None:
    assert camera().snapshot(JULY_NOON_NS) == camera().snapshot(JULY_NOON_NS)
    assert camera().snapshot(JULY_NOON_NS) != camera().snapshot(JULY_NOON_NS + 1)


def test_day_is_bright_and_night_is_dark() -> None:
    sim = camera()

    assert pixels(sim.snapshot(JULY_NOON_NS)).mean() > 90
    assert 12 < pixels(sim.snapshot(JULY_NIGHT_NS)).mean() < 60


def test_vehicles_of_the_world_are_seen() -> None:
    sim = camera()
    step_ns = 10 * NS
    busy = next(
        t_ns
        for t_ns in range(JULY_NOON_NS, JULY_NOON_NS + 1000 * step_ns, step_ns)
        if any(abs(each.x_m) < 15 for each in sim.world.vehicles(t_ns))
    )
    empty = next(
        t_ns
        for t_ns in range(busy, busy + 1000 * step_ns, step_ns)
        if not any(abs(each.x_m) < 45 for each in sim.world.vehicles(t_ns))
    )

    road = np.abs(pixels(sim.snapshot(busy)) - pixels(sim.snapshot(empty)))[110:]

    assert (road > 40).mean() > 0.005


@pytest.mark.parametrize(
    ("view", "low", "high"),
    [("black", 0, 6), ("dazzled", 245, 255), ("covered", 6, 110), ("turned", 40, 160)],
)
def test_a_view_changes_what_is_seen(view: View, low: float, high: float) -> None:
    plain, seen = camera().snapshot(JULY_NOON_NS), camera(view=view).snapshot(JULY_NOON_NS)

    assert low <= pixels(seen).mean() <= high
    assert np.abs(pixels(seen) - pixels(plain)).mean() > 10


async def test_a_stuck_camera_repeats_its_bytes() -> None:
    async with client_of(camera("stuck@1,stuck_s=60")) as client:
        await client.get("/snapshot.jpg")
        second, third = await client.get("/snapshot.jpg"), await client.get("/snapshot.jpg")

    assert second.content == third.content


async def test_faults_show_as_the_sheet_has_them() -> None:
    async with client_of(camera("garbage@1,cut@2,checksum@3,late@4,late_s=0")) as client:
        page = await client.get("/snapshot.jpg")
        cut = await client.get("/snapshot.jpg")
        error = await client.get("/snapshot.jpg")
        good = await client.get("/snapshot.jpg")

    assert (page.status_code, page.content[:6]) == (200, b"<html>")
    assert cut.content[:2] == b"\xff\xd8"
    assert cut.content[-2:] != b"\xff\xd9"
    assert error.status_code == 500
    assert good.content[-2:] == b"\xff\xd9"


async def test_a_hang_up_ends_the_connection_in_the_middle() -> None:
    async with client_of(camera("hangup@1")) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/snapshot.jpg")
        assert (await client.get("/snapshot.jpg")).status_code == 200


async def test_silence_answers_nothing() -> None:
    async with client_of(camera("silence@1")) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/snapshot.jpg", timeout=0.1)


async def test_the_log_of_the_truth_tells_every_picture(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    with Truth(path) as truth:
        async with client_of(camera("cut@2", truth=truth)) as client:
            first = await client.get("/snapshot.jpg")
            await client.get("/snapshot.jpg")

    told = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["fault"] for line in told] == [None, "cut"]
    assert told[0]["device"] == "cam"
    assert told[0]["values"] == {"width": 320, "height": 180, "bytes": len(first.content)}
    assert told[0]["bytes"].startswith("sha256:")


async def test_many_hosts_are_served_at_once() -> None:
    async with client_of(camera()) as client:
        answers = await asyncio.gather(*(client.get("/snapshot.jpg") for _ in range(4)))

    assert len({hashlib.sha256(each.content).digest() for each in answers}) == 4

"""Image health as pure functions: numbers of a picture, of two, and what a camera's past says."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trisense.drivers import FrameError
from trisense.drivers.camera.codec import FramePair, ImageHealth, JpegCheck
from trisense.drivers.camera.health import compare, health, measure
from trisense.drivers.camera.picture import MAX_PIXELS, cut, decode, luma, preview, split
from trisense.drivers.camera.watch import Watch

PICTURES = Path(__file__).parent / "vectors" / "data" / "camera"
ROAD = (PICTURES / "road_0000.jpg").read_bytes()
MINUTE_S = 60.0
NOON_S = 1_700_000_000.0 // 86_400 * 86_400 + 12 * 3600


def jpeg(pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    picture.save(out, "JPEG", **options)
    return out.getvalue()


def street(seed: int, *, width: int = 160, height: int = 96) -> np.ndarray:
    """A textured scene that is the same for every seed, with the noise of a live sensor on top."""
    scene = np.random.default_rng(7).integers(40, 200, (height // 8, width // 8), dtype=np.uint8)
    grain = np.random.default_rng(seed).normal(0, 2, (height, width))
    return np.clip(np.kron(scene, np.ones((8, 8))) + grain, 0, 255).astype(np.uint8)


def road(number: str) -> np.ndarray:
    return luma(decode(cut((PICTURES / f"road_{number}.jpg").read_bytes())))


# --- one picture ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("road_0000", "normal"),
        ("road_0345", "normal"),
        ("deg_black", "black"),
        ("deg_overexposed", "overexposed"),
        ("deg_blur", "blurred"),
        ("deg_noise", "noisy"),
        ("deg_occluded", "occluded"),
        ("deg_moved", "moved"),
        ("deg_halfgrey", "corrupt"),
    ],
)
def test_one_picture_is_named_by_what_ails_it(file: str, expected: str) -> None:
    assert health((PICTURES / f"{file}.jpg").read_bytes())["class"] == expected


def test_bars_on_both_sides_are_a_format_and_no_move() -> None:
    boxed = Image.new("L", (200, 96))
    boxed.paste(Image.fromarray(street(1)), (20, 0))

    assert health(jpeg(boxed, quality=95))["class"] == "normal"


def test_metrics_of_a_flat_picture_are_exact() -> None:
    flat = measure(np.full((48, 64), 100, dtype=np.uint8))

    assert flat.metrics["mean"] == 100
    assert flat.metrics["std"] == flat.metrics["lapvar"] == flat.metrics["dark"] == 0
    assert flat.metrics["tiles_flat_lt_1"] == 48


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 7), (1, 500), (500, 1)])
def test_a_tiny_picture_has_metrics_too(size: tuple[int, int]) -> None:
    found = health(jpeg(Image.new("RGB", size, (90, 90, 90))))

    assert (found["width"], found["height"]) == size
    assert found["lapvar"] == 0


def test_a_large_picture_is_decoded_small_and_keeps_its_own_size_in_the_row() -> None:
    data = jpeg(Image.new("RGB", (3840, 2160), (90, 120, 90)))

    assert (health(data)["width"], health(data)["height"]) == (3840, 2160)
    assert decode(cut(data)).size == (1920, 1080)


# --- hostile bytes ----------------------------------------------------------------------------


def test_a_jpeg_cut_anywhere_is_refused() -> None:
    for end in range(0, len(ROAD), 97):
        with pytest.raises(FrameError):
            cut(ROAD[:end])
    with pytest.raises(FrameError, match="FF D9"):
        cut((PICTURES / "deg_truncated.jpg").read_bytes())


def test_a_jpeg_may_be_followed_by_padding() -> None:
    assert cut(ROAD + bytes(512)).data == ROAD


def test_fill_bytes_before_the_end_marker_are_allowed() -> None:
    padded = ROAD[:-2] + b"\xff\xff\xd9"

    assert cut(padded).data == padded


def test_what_is_no_picture_never_reaches_the_decoder() -> None:
    exif = b"\xff\xe1\x00\x20Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + b"\xff" * 14

    hostile = cut(ROAD[:2] + exif + ROAD[2:])

    assert b"Exif" not in hostile.bare
    assert decode(hostile).size == (768, 432)


def test_an_end_marker_inside_a_thumbnail_is_not_the_end() -> None:
    thumbnail = b"\xff\xe1" + (2 + 4).to_bytes(2, "big") + b"\xff\xd8\xff\xd9"

    assert cut(ROAD[:2] + thumbnail + ROAD[2:]).data.endswith(ROAD[-100:])


def test_a_decompression_bomb_is_refused_before_a_pixel_is_decoded() -> None:
    start = ROAD.index(b"\xff\xc0") + 5
    bomb = ROAD[:start] + b"\xff\xff\xff\xff" + ROAD[start + 4 :]

    with pytest.raises(FrameError, match=str(MAX_PIXELS)):
        health(bomb)


def test_hostile_bytes_raise_nothing_but_frame_errors() -> None:
    chance = random.Random(1)
    survived = 0
    small = jpeg(street(1), quality=60)
    for _ in range(600):
        damaged = bytearray(small)
        for _ in range(chance.randint(1, 6)):
            # Most of what can go wrong stands in the first segments.
            at = chance.randrange(len(damaged) if chance.random() < 0.3 else 700) % len(damaged)
            damaged[at] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        try:
            found = health(bytes(damaged))
        except FrameError:
            continue
        survived += 1
        assert 0 <= found["mean"] <= 255
    assert 0 < survived < 600


def test_a_recording_gives_its_pictures_and_says_what_is_damaged() -> None:
    recording = ROAD + ROAD + ROAD[:900]

    assert len(ImageHealth().frames(recording)) == 2
    assert len(ImageHealth().damaged(recording)) == 1
    assert len(FramePair().frames(recording)) == 1
    assert JpegCheck().frames(recording)[0] == {
        "complete": True,
        "starts_ffd8": True,
        "ends_ffd9": True,
        "width": 768,
        "height": 432,
    }
    assert [len(each.data) for each in split(recording)[0]] == [len(ROAD)] * 2


# --- two pictures -----------------------------------------------------------------------------


def test_a_picture_equals_itself() -> None:
    assert compare(ROAD, ROAD) == {
        "mad": 0,
        "med": 0,
        "mad_c": 0,
        "frac": 0,
        "hist_intersection": 1,
        "ncc": 1,
        "bytes_equal": True,
    }


def test_pictures_of_two_sizes_are_not_compared() -> None:
    with pytest.raises(FrameError, match="one size"):
        compare(ROAD, jpeg(street(1)))


# --- previews ---------------------------------------------------------------------------------


def test_a_preview_fits_its_bounds_and_is_named_by_its_content() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (600, 800, 3), dtype=np.uint8)

    small = preview(Image.fromarray(noise), width=640, max_bytes=40_000)

    assert len(small.data) <= 40_000
    assert small.width <= 640
    assert Image.open(io.BytesIO(small.data)).size == (small.width, small.height)
    assert len(small.id) == 64


def test_a_small_picture_is_not_enlarged() -> None:
    assert preview(Image.new("RGB", (100, 50)), width=640, max_bytes=200_000).width == 100


def test_a_privacy_zone_is_painted_over_with_a_margin_and_metadata_is_dropped() -> None:
    exif = Image.Exif()
    exif[0x010E] = "unmasked"
    data = jpeg(Image.new("RGB", (200, 100), (250, 0, 0)), exif=exif, quality=95)
    zone = ((0.25, 0.25), (0.5, 0.25), (0.5, 0.75), (0.25, 0.75))

    hidden = preview(decode(cut(data)), width=640, max_bytes=200_000, zones=[zone])

    shown = np.asarray(Image.open(io.BytesIO(hidden.data)).convert("RGB")).astype(int)
    assert abs(shown[50, 75] - 128).max() < 12
    assert abs(shown[50, 47] - 128).max() < 30  # inside the margin
    assert shown[50, 150, 0] > 230
    assert b"unmasked" not in hidden.data


# --- the past ---------------------------------------------------------------------------------


class Camera:
    """Feeds a watch with pictures at an even pace."""

    def __init__(self, step_s: float = MINUTE_S) -> None:
        self._step_s = step_s
        self._watch = Watch()
        self.now_s = NOON_S
        self._count = itertools.count()

    def sees(self, y: np.ndarray, *, repeated: bool = False) -> str:
        self.now_s += self._step_s
        digest = "same" if repeated else str(next(self._count))
        hour_of_day = int(self.now_s // 3600 % 24)
        return self._watch.judge(measure(y), digest, self.now_s, hour_of_day=hour_of_day).look

    @property
    def state(self) -> str:
        return self._watch.state

    def lives(self, pictures: int) -> None:
        for seed in range(pictures):
            assert self.sees(street(seed)) == "normal"


def test_a_live_still_scene_stays_normal() -> None:
    camera = Camera()
    camera.lives(30)

    assert camera.state == "normal"


def test_a_frozen_picture_is_told_after_five_repeats_and_two_minutes() -> None:
    camera = Camera()
    camera.lives(3)

    looks = [camera.sees(street(99), repeated=True) for _ in range(8)]

    assert looks[:5] == ["normal"] * 5
    assert looks[-1] == "frozen"
    assert camera.state == "frozen"


def test_a_frozen_picture_under_fresh_bytes_is_frozen_too() -> None:
    camera = Camera()
    camera.lives(3)

    assert [camera.sees(street(99)) for _ in range(8)][-1] == "frozen"


def test_a_frozen_camera_that_lives_again_is_cleared_after_three_good_pictures() -> None:
    camera = Camera(step_s=90)
    camera.lives(3)
    for _ in range(8):
        camera.sees(street(99), repeated=True)

    camera.sees(street(200))
    camera.sees(street(201))
    assert camera.state == "frozen"
    camera.sees(street(202))
    assert camera.state == "normal"


def test_a_camera_turned_away_is_moved_after_three_checks() -> None:
    camera = Camera()
    camera.lives(5)

    looks = [camera.sees(street(seed)[::-1, ::-1].copy()) for seed in range(50, 56)]

    assert looks == ["normal", "normal", *["moved"] * 4]
    assert camera.state == "moved"


def test_an_exposure_step_is_no_move() -> None:
    camera = Camera()
    for _ in range(2):
        for number in ("0000", "0012", "0130"):
            camera.sees(road(number))

    # The same still road while the exposure recovers from a white car: correlation 0.10, hardly any motion.
    looks = [camera.sees(road("0345")) for _ in range(4)]

    assert looks == ["normal"] * 4


def test_a_new_view_is_accepted_after_a_day() -> None:
    camera = Camera()
    camera.lives(5)
    for seed in range(25):
        camera.now_s += 3600
        camera.sees(street(seed)[::-1, ::-1].copy())

    looks = {camera.sees(street(seed)[::-1, ::-1].copy()) for seed in range(100, 105)}

    assert looks == {"normal"}


def test_softer_than_its_usual_is_blurred_though_no_fixed_limit_says_so() -> None:
    camera = Camera()
    camera.lives(15)
    soft = street(99).astype(float)
    for axis in (0, 1) * 3:
        soft = (soft + np.roll(soft, 1, axis) + np.roll(soft, -1, axis)) / 3
    y = (soft + np.random.default_rng(5).normal(0, 0.7, soft.shape)).astype(np.uint8)

    assert Watch().judge(measure(y), "x", NOON_S, hour_of_day=12).look == "normal"
    assert camera.sees(y) == "blurred"


def covered(seed: int, columns: int) -> np.ndarray:
    y = street(seed)
    y[:, :columns] = 30
    return y


def test_a_cover_over_what_the_baseline_shows_is_occluded() -> None:
    camera = Camera()
    camera.lives(5)

    assert camera.sees(covered(50, 60)) == "normal"
    assert camera.sees(covered(51, 80)) == "occluded"


def test_what_is_flat_in_the_baseline_too_is_not_occluded() -> None:
    camera = Camera()
    assert camera.sees(covered(1, 60)) == "normal"

    assert camera.sees(covered(50, 80)) == "normal"
    assert Watch().judge(measure(covered(50, 80)), "x", NOON_S, hour_of_day=12).look == "occluded"


def test_one_bad_picture_does_not_change_the_state() -> None:
    camera = Camera()
    camera.lives(5)

    assert camera.sees(np.full((96, 160), 2, np.uint8)) == "black"
    assert camera.state == "normal"
    for _ in range(3):
        camera.sees(np.full((96, 160), 2, np.uint8))
    assert camera.state == "black"


def test_another_resolution_starts_anew() -> None:
    camera = Camera()
    camera.lives(5)

    assert camera.sees(street(1, width=320, height=192)) == "normal"
    assert camera.sees(street(2, width=320, height=192)) == "normal"

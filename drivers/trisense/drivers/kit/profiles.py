"""Modbus profiles under test: a slave with numbers in its registers, RTU on a pty."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from trisense.core.errors import ConfigError, Mistake
from trisense.core.model import Quality, Value
from trisense.drivers.kit.contract import Row
from trisense.drivers.kit.modbus_slave import Image, ModbusSlave, SlaveFraming
from trisense.drivers.kit.subject import Setup, Subject
from trisense.drivers.modbus import Modbus, Profile, load_profile, profiles
from trisense.drivers.modbus.profile import FieldTable, quality_of

__all__ = ["subject_of_profile"]

TIMEOUT_S: Final = 0.1
FRAMINGS: Final[Sequence[tuple[SlaveFraming, str]]] = (("rtu", "pty"), ("tcp", "tcp"))
CANDIDATES: Final = (100, 200, 50, 20, 1, 500, 1000, 2000, 5, 10_000, 0)
"""Raw numbers to try; the first that the field takes as a value inside its range is used."""


def subject_of_profile(name: str) -> Subject:
    """A profile that comes with the driver (``modbus:NAME``), or a file.

    Raises:
        ConfigError: there is none, or it has mistakes.
    """
    own = name.endswith(".toml")
    if own:
        profile = load_profile(Path(name))
    else:
        _, _, wanted = name.partition(":")
        if wanted not in profiles():
            raise ConfigError(
                "driver", [Mistake("driver", f"modbus: and one of {', '.join(profiles())}", repr(name))]
            )
        profile = profiles()[wanted]
    base: dict[str, Any] = {"timeout_s": TIMEOUT_S}
    if own:
        base["profile_file"] = str(Path(name).resolve())
    setups = [
        Setup(
            {**base, "framing": framing, "options": options},
            partial(ModbusSlave, profile.device.unit, images, framing),
            len(images),
            transport,
        )
        for framing, transport in FRAMINGS
        for options, images in _images(profile)
    ]
    by = "" if profile.example else "; values by the profile alone: it has no [[example]]"
    note = f"RTU on a pty, its examples over Modbus TCP too{by}"
    return Subject(name, Modbus.name if own else name, Modbus, "", "line", {}, setups, note)


def _images(profile: Profile) -> Iterator[tuple[Mapping[str, str], Sequence[Image]]]:
    """Register images by the options of the device: the profile's examples, else numbers of our own."""
    first = {option: values[0] for option, values in profile.options.items()}
    groups: dict[tuple[tuple[str, str], ...], list[Image]] = {}
    for example in profile.example:
        options = {**first, **example.options}
        quality = {**quality_of(example.values), **dict.fromkeys(example.missing, Quality.MISSING)}
        row = Row(measurement=profile.device.measurement, values=example.values, quality=quality)
        groups.setdefault(tuple(options.items()), []).append((example.image, [row]))
    for options_of, images in groups.items():
        yield dict(options_of), images
    if not groups:
        yield first, [_image(profile, first, turn) for turn in (0, 1)]


def _image(profile: Profile, options: Mapping[str, str], turn: int) -> Image:
    """Registers with a plausible number in each field; another one for another ``turn``."""
    words: dict[int, int] = {}
    for block in profile.read:
        words |= {a: 0 for a in range(block.address, block.end) if a not in block.forbidden}
    fields = profile.polled(options)
    for field in fields:
        words |= _numbers(field, turn)
    values = {
        field.name: field.value([words[a] for a in range(field.address, field.end)])
        if field.type != "bits"
        else words[field.address] & 1
        for field in fields
    }
    return words, [Row(measurement=profile.device.measurement, values=values, quality=quality_of(values))]


def _numbers(field: FieldTable, turn: int) -> dict[int, int]:
    good = []
    for raw in CANDIDATES:
        words = _words(field, raw)
        if _in_range(field, field.value(words)):
            good.append(words)
    words = good[min(turn, len(good) - 1)] if good else _words(field, 0)
    return {field.address + index: word for index, word in enumerate(words)}


def _in_range(field: FieldTable, value: Value) -> bool:
    low, high = field.stream_field.valid or (None, None)
    return (
        isinstance(value, int | float) and (low is None or value >= low) and (high is None or value <= high)
    )


def _words(field: FieldTable, raw: int) -> list[int]:
    """The registers that hold ``raw`` in the field's type and word order."""
    size = 2 * field.width
    if field.type in ("f32", "f64"):
        data = struct.pack(">f" if field.type == "f32" else ">d", raw)
    else:
        data = (raw & (1 if field.type == "bits" else 0xFFFF_FFFF_FFFF_FFFF) & (256**size - 1)).to_bytes(
            size, "big"
        )
    little = field.word_order in ("BADC", "DCBA")
    words = [int.from_bytes(data[i : i + 2], "little" if little else "big") for i in range(0, size, 2)]
    return words[::-1] if field.word_order in ("CDAB", "DCBA") else words

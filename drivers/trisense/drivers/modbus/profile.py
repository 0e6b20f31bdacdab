"""A Modbus device as data: the TOML profile, and what its registers mean (design.md section 5).

Addresses are wire addresses: the number that goes over the line. Documents that write 30001 or 40001, or
count from 1, are converted by whoever writes the profile (environment.md A1, "Address notation").
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache, cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from trisense.core.config import ConfigModel, load_toml
from trisense.core.model import NAME, FieldType, Layer, Quality, Stream, Value
from trisense.core.model import Field as StreamField
from trisense.core.vocabulary import PROPERTIES
from trisense.drivers.modbus.pdu import READ_BITS
from trisense.drivers.modbus.planner import Rules, Span, plan

__all__ = [
    "DeviceTable",
    "ExampleTable",
    "FieldTable",
    "Profile",
    "ReadTable",
    "Request",
    "builtin",
    "load_profile",
    "names",
    "profiles",
    "quality_of",
]

FOLDER: Final = Path(__file__).with_name("profiles")

RegisterType = Literal["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64", "bits"]
WordOrder = Literal["ABCD", "CDAB", "BADC", "DCBA"]
Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Address = Annotated[int, Field(ge=0, le=0xFFFF)]
Word = Annotated[int, Field(ge=0, le=0xFFFF)]

SIZE_BYTES: Final = (
    dict.fromkeys(("u8", "s8"), 1)
    | dict.fromkeys(("u16", "s16", "bits"), 2)
    | dict.fromkeys(("u32", "s32", "f32"), 4)
    | dict.fromkeys(("u64", "s64", "f64"), 8)
)
"""Bytes that each type takes."""


def _fewest(_: int, count: int) -> int:
    """A price at which no further register is worth a further request."""
    return 0x1_0000 + count


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


class DeviceTable(ConfigModel):
    """``[device]``."""

    name: Name
    """Name of the profile, after ``modbus:``; the file is called the same."""
    vendor: str
    """Maker and model, for people."""
    measurement: Name
    """Kind of stream, such as ``weather`` or ``soil``: devices of one kind share a table in the store."""
    sheet: str = ""
    """Device name in the vectors of the protocol sheet, where it has one."""
    unit: Annotated[int, Field(ge=1, le=255)] = 1
    """Unit address that the device is delivered with."""
    max_registers: Annotated[int, Field(ge=1, le=125)] = 32
    """Most registers that it gives in one answer; the standard allows 125, many devices less."""
    min_gap_ms: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """Pause it needs before a request, where that is longer than T3.5."""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 0.5
    """Longest wait until its answer begins."""
    answer_ms: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    """Time it usually takes until its answer begins; what a hole may cost follows from it."""


class ReadTable(ConfigModel):
    """``[[read]]``: a block of registers (or bits) that the device is known to have."""

    function: Literal[1, 2, 3, 4]
    address: Address
    count: Annotated[int, Field(ge=1, le=2000)]
    forbidden: tuple[Address, ...] = ()
    """Addresses of this function that no request may touch, inside the block or not."""
    poll: bool = True
    """False: settings, known when a capture is decoded, never asked for."""

    @property
    def end(self) -> int:
        """First address behind the block."""
        return self.address + self.count

    @property
    def span(self) -> Span:
        return Span(self.address, self.end)

    def covers(self, address: int, width: int) -> bool:
        """Whether the block allows to read ``width`` registers from ``address``."""
        inside = self.address <= address and address + width <= self.end
        return inside and not any(address <= bad < address + width for bad in self.forbidden)


class FieldTable(ConfigModel):
    """``[[field]]``: one quantity. Its value is ``raw * scale + offset``, exact in decimal."""

    name: Name
    unit: str | None = None
    """UCUM code; may be left out where the vocabulary knows the name."""
    address: Address
    type: RegisterType
    word_order: WordOrder = "ABCD"
    """How the bytes of 0x0A0B0C0D lie in the registers; ``ABCD`` is high word first."""
    byte: Literal[0, 1] = 0
    """Byte of its first register in which it begins, for devices that pack bytes: 0 high, 1 low."""
    scale: Annotated[Decimal, Field(allow_inf_nan=False)] = Decimal(1)
    offset: Annotated[Decimal, Field(allow_inf_nan=False)] = Decimal(0)
    sentinel: Annotated[tuple[int, ...], BeforeValidator(_listed)] = ()
    """Raw values that mean "no value", as the sheet writes them: signed or as the bit pattern."""
    valid: tuple[float, float] | None = None
    """Lowest and highest possible value; ``inf`` leaves a side open."""
    resolution: Annotated[float, Field(gt=0)] | None = None
    """Step of the hardware. Floats are rounded to it; an integer's step is its scale anyway."""
    options: Mapping[str, str] = {}
    """The field exists only on devices configured with these options."""

    @property
    def width(self) -> int:
        """Registers that it takes, some perhaps in part."""
        return (self.byte + SIZE_BYTES[self.type] + 1) // 2

    @property
    def end(self) -> int:
        return self.address + self.width

    @property
    def span(self) -> Span:
        return Span(self.address, self.end)

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = PROPERTIES.get(self.name)
        if self.unit is None and known is None:
            raise ValueError(f"a unit: {self.name} is not in the vocabulary")
        if self.unit is not None and known is not None and self.unit != known.unit:
            raise ValueError(f"the vocabulary's unit {known.unit} for {self.name}, not {self.unit}")
        whole = self.scale == int(self.scale) and self.offset == int(self.offset) and self.type[0] != "f"
        if known is not None and known.type is FieldType.INT and not whole:
            raise ValueError(f"whole numbers for {self.name}")
        if self.type == "bits" and (self.scale != 1 or self.offset != 0):
            raise ValueError("no scale nor offset for bits")
        if self.width == 1 and self.word_order in ("CDAB", "DCBA"):
            raise ValueError("word_order ABCD or BADC for one register")
        if self.byte and self.word_order != "ABCD":
            raise ValueError("word_order ABCD for a value that begins inside a register")
        if self.valid is not None and not self.valid[0] <= self.valid[1]:
            raise ValueError("valid = [lowest, highest]")
        return self

    @cached_property
    def stream_field(self) -> StreamField:
        """The column that it fills."""
        known = PROPERTIES.get(self.name)
        whole = self._ratio[2] == 1 and self.type not in ("f32", "f64")
        type_ = known.type if known else FieldType.INT if whole else FieldType.FLOAT
        resolution = self.resolution
        if resolution is None and self.type not in ("f32", "f64", "bits"):
            resolution = float(self.scale)
        valid = None
        if self.valid is not None:
            low, high = (None if math.isinf(limit) else limit for limit in self.valid)
            valid = (low, high)
        return StreamField(self.name, self.unit or (known.unit if known else "1"), type_, resolution, valid)

    @cached_property
    def _ratio(self) -> tuple[int, int, int]:
        """(a, b, c) with value = (raw * a + b) / c, so that one rounding at the end is all there is."""
        scale, offset = Fraction(self.scale), Fraction(self.offset)
        below = math.lcm(scale.denominator, offset.denominator)
        return int(scale * below), int(offset * below), below

    @cached_property
    def _patterns(self) -> frozenset[int]:
        """The sentinels as they read here, whichever way the sheet writes them."""
        if self.type[0] != "s":
            return frozenset(self.sentinel)
        whole = 1 << 8 * SIZE_BYTES[self.type]
        return frozenset(n - whole if whole // 2 <= n < whole else n for n in self.sentinel)

    def value(self, registers: Sequence[int]) -> Value:
        """What the registers of this field say: a number, or None for a sentinel, NaN or infinity."""
        return self.value_at(_packed(registers), 0)

    def value_at(self, data: bytes, at: int) -> Value:
        """The same of a field whose first register lies at byte ``at`` of ``data``, high bytes first."""
        if self.word_order == "ABCD":
            at += self.byte
        else:
            data, at = _in_order(data[at : at + 2 * self.width], self.word_order), 0
        data = data[at : at + SIZE_BYTES[self.type]]
        kind = self.type[0]
        if kind == "f":
            return self._float_value(data)
        raw = int.from_bytes(data, "big", signed=kind == "s")
        if raw in self._patterns:
            return None
        a, b, c = self._ratio
        number = raw * a + b
        return number // c if self.stream_field.type is FieldType.INT else number / c

    def _float_value(self, data: bytes) -> Value:
        raw: float = struct.unpack(">f" if self.type == "f32" else ">d", data)[0]
        if not math.isfinite(raw) or raw in self.sentinel:
            return None
        # The shortest decimal that this float stands for: 230.2, not 230.1999969482422.
        exact = Fraction(_shortest_f32(raw) if self.type == "f32" else repr(raw))
        exact = exact * Fraction(self.scale) + Fraction(self.offset)
        if self.resolution is not None:
            step = Fraction(str(self.resolution))
            exact = round(exact / step) * step
        number = exact.numerator / exact.denominator
        return number if math.isfinite(number) else None


class ExampleTable(ConfigModel):
    """``[[example]]``: registers and the row that they mean, for ``trisense driver test``."""

    source: str
    """Where it stands: document and page, or who captured it when."""
    registers: Mapping[str, Annotated[tuple[Word, ...], Field(min_length=1)]]
    """Words from an address on, such as ``0x0165 = [10, 20]``; bits are 0 and 1."""
    values: Mapping[str, int | float]
    """What each field must be."""
    missing: tuple[Name, ...] = ()
    """Fields whose word means "no value"."""
    options: Mapping[str, str] = {}
    """Options of the device in this example; by default the first value of each."""

    @field_validator("registers")
    @classmethod
    def _check(cls, registers: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
        for address in registers:
            if not 0 <= int(address, 0) <= 0xFFFF:
                raise ValueError(f"addresses from 0 to 0xFFFF, not {address}")
        return registers

    @cached_property
    def image(self) -> Mapping[int, int]:
        """Words by address."""
        return {
            int(first, 0) + index: word
            for first, words in self.registers.items()
            for index, word in enumerate(words)
        }


@dataclass(frozen=True, slots=True)
class Request:
    """One request that a profile makes, and the fields that its answer holds."""

    function: int
    address: int
    count: int
    fields: tuple[FieldTable, ...]

    @property
    def span(self) -> Span:
        return Span(self.address, self.address + self.count)

    def values(self, data: Sequence[int]) -> dict[str, Value]:
        """Values by field name; ``data`` is the answer's registers, or its bits as 0 and 1."""
        if self.function in READ_BITS:
            return {field.name: int(data[field.address - self.address]) for field in self.fields}
        packed, first = _packed(data), self.address
        return {field.name: field.value_at(packed, 2 * (field.address - first)) for field in self.fields}


class Profile(ConfigModel):
    """A Modbus device: its table, the blocks to read and the fields in them."""

    device: DeviceTable
    read: Annotated[tuple[ReadTable, ...], Field(min_length=1)]
    field: Annotated[tuple[FieldTable, ...], Field(min_length=1)]
    example: tuple[ExampleTable, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = [text for index, field in enumerate(self.field) for text in self._wrong_with(index, field)]
        wrong += self._twice()
        wrong += self._wrong_examples()
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _wrong_with(self, index: int, field: FieldTable) -> list[str]:
        homes = [block for block in self.read if block.covers(field.address, field.width)]
        where = f"field[{index}] {field.name}"
        if not homes:
            return [f"{where} inside a read block and off its forbidden addresses"]
        if len(homes) > 1:
            return [f"{where} in one read block, not in {len(homes)}"]
        if any(
            field.address <= bad < field.end
            for block in self.read
            if block.function == homes[0].function
            for bad in block.forbidden
        ):
            return [f"{where} off the addresses that another block forbids"]
        if homes[0].function in READ_BITS and field.type != "bits":
            return [f"{where} of type bits, as function {homes[0].function} reads bits"]
        if homes[0].function not in READ_BITS and field.width > self.device.max_registers:
            return [f"{where} no wider than max_registers"]
        return []

    def _twice(self) -> list[str]:
        """Fields of one name must exclude each other by an option."""
        return [
            f"field[{index}] {field.name} once, or with options that exclude the other"
            for index, field in enumerate(self.field)
            for other in self.field[:index]
            if other.name == field.name and not _exclude(other.options, field.options)
        ]

    def _wrong_examples(self) -> list[str]:
        known = {field.name for field in self.field}
        return [
            f"example[{index}] with values of fields of this profile, not {name}"
            for index, example in enumerate(self.example)
            for name in (*example.values, *example.missing)
            if name not in known
        ]

    @cached_property
    def options(self) -> Mapping[str, tuple[str, ...]]:
        """Options that a device of this profile must choose, each with its values in the file's order."""
        found: dict[str, dict[str, None]] = {}
        for field in self.field:
            for option, value in field.options.items():
                found.setdefault(option, {})[value] = None
        return {option: tuple(values) for option, values in found.items()}

    def variants(self) -> Iterator[dict[str, str]]:
        """Every choice of options, the first values first."""
        choices: list[dict[str, str]] = [{}]
        for option, values in self.options.items():
            choices = [{**choice, option: value} for choice in choices for value in values]
        yield from choices

    def fields(self, options: Mapping[str, str]) -> tuple[FieldTable, ...]:
        """The fields of a device with these options, in the file's order."""
        return tuple(
            field for field in self.field if all(options.get(k) == v for k, v in field.options.items())
        )

    def polled(self, options: Mapping[str, str]) -> tuple[FieldTable, ...]:
        """Those of ``fields`` that are asked for: the columns of the stream."""
        blocks = [block for block in self.read if block.poll]
        return tuple(f for f in self.fields(options) if any(b.covers(f.address, f.width) for b in blocks))

    def requests(
        self,
        options: Mapping[str, str],
        *,
        cost: Callable[[int, int], int] = _fewest,
        refused: Collection[tuple[int, Span]] = (),
        wide: bool = False,
    ) -> tuple[Request, ...]:
        """The cheapest requests for the polled fields, by function and address.

        ``cost`` prices a read of a function and a count. Inside the declared blocks only, unless ``wide``:
        then a request may also reach over what lies between them. Nothing ``refused`` (function, span) is
        asked for again; a field that was refused alone is in no request.
        """
        chosen = self.polled(options)
        return tuple(
            request
            for function in sorted({block.function for block in self.read if block.poll})
            for request in self._requests_with(
                function,
                chosen,
                partial(cost, function),
                self.rules(function, frozenset(span for f, span in refused if f == function), wide=wide),
            )
        )

    def rules(self, function: int, refused: frozenset[Span] = frozenset(), *, wide: bool = False) -> Rules:
        """What a request with this function may touch."""
        blocks = [block for block in self.read if block.function == function]
        return Rules(
            limit=2000 if function in READ_BITS else self.device.max_registers,
            barred=tuple(
                [Span(bad, bad + 1) for block in blocks for bad in block.forbidden]
                + [block.span for block in blocks if not block.poll]
            ),
            refused=refused,
            declared=None if wide else tuple(block.span for block in blocks if block.poll),
        )

    def _requests_with(
        self, function: int, chosen: Sequence[FieldTable], cost: Callable[[int], int], rules: Rules
    ) -> Iterator[Request]:
        blocks = [block for block in self.read if block.function == function and block.poll]
        fields = [f for f in chosen if any(b.covers(f.address, f.width) for b in blocks)]
        for span in plan({f.span for f in fields if rules.allow(f.span)}, cost, rules):
            inside = tuple(field for field in fields if span.holds(field.span))
            yield Request(function, span.start, span.size, inside)

    def stream(self, device: str, *, site: str, options: Mapping[str, str]) -> Stream:
        """The stream that a device of this profile produces."""
        columns = tuple(field.stream_field for field in self.polled(options))
        return Stream(device, self.device.measurement, Layer.GROUND, columns, site)


def quality_of(values: Mapping[str, Value]) -> dict[str, Quality]:
    """MISSING for each null: the device itself said that there is no value."""
    return {name: Quality.MISSING for name, value in values.items() if value is None}


def load_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ConfigError: with every mistake in it.
    """
    return load_toml(path, Profile)


@cache
def names() -> tuple[str, ...]:
    """Names of the profiles that come with the driver; none is read."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@cache
def builtin(name: str) -> Profile:
    """The profile that comes with the driver under this name; KeyError where there is none."""
    if name not in names():
        raise KeyError(name)
    return load_profile(FOLDER / f"{name}.toml")


def profiles() -> Mapping[str, Profile]:
    """Every profile that comes with the driver, by name."""
    return MappingProxyType({name: builtin(name) for name in names()})


def _exclude(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return any(option in other and other[option] != value for option, value in one.items())


def _packed(registers: Sequence[int]) -> bytes:
    """Registers as they go over the line."""
    return struct.pack(f">{len(registers)}H", *registers)


def _in_order(data: bytes, order: WordOrder) -> bytes:
    """The bytes of one value with the highest first."""
    if order in ("BADC", "CDAB"):
        swapped = bytearray(data)
        swapped[::2], swapped[1::2] = data[1::2], data[::2]
        data = bytes(swapped)
    return data[::-1] if order in ("CDAB", "DCBA") else data


def _shortest_f32(value: float) -> str:
    """The shortest decimal that rounds to this 32-bit float."""
    for digits in range(6, 9):
        text = f"{value:.{digits}g}"
        if struct.unpack(">f", struct.pack(">f", float(text)))[0] == value:
            return text
    return f"{value:.9g}"

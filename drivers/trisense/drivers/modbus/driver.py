"""The Modbus driver: a polled device described by a profile, on a bus that it may share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

from pydantic import AfterValidator, Field, model_validator
from trisense.core.errors import ConfigError, DeviceRefused, DeviceTimeout, LineError, Mistake
from trisense.core.model import Stream, Value
from trisense.drivers.lines import Lines, check_url
from trisense.drivers.modbus.bus import BusSettings, ModbusBus, Party
from trisense.drivers.modbus.codec import ProfileCodecs
from trisense.drivers.modbus.deviceplan import DevicePlan
from trisense.drivers.modbus.framing import Framing
from trisense.drivers.modbus.pdu import READ_BITS, ask, bits_of, registers_of
from trisense.drivers.modbus.profile import (
    Profile,
    Request,
    builtin,
    load_profile,
    names,
    quality_of,
)
from trisense.drivers.modbus.timing import ExchangeCost
from trisense.drivers.sdk import DeviceConfig, Observed, PolledDriver

__all__ = ["Config", "Modbus"]

PREFIX: Final = "modbus"
WRONG_REGISTERS: Final = (2, 3)
"""Exceptions that a narrower request may not get: illegal address, illegal quantity."""


def _line(url: str) -> str:
    check_url(url)
    return url


class Config(DeviceConfig):
    """One Modbus device. ``timeout_s`` is the profile's unless it is set here; it counts until the
    answer begins, the time that bytes take on a serial line comes on top.
    """

    line: Annotated[str, AfterValidator(_line)]
    """The bus: ``serial:///dev/...?baud=9600&format=8N1`` or ``tcp://HOST:PORT``."""
    framing: Framing
    """``rtu`` on a serial line or through a converter that passes raw frames over TCP, ``ascii``, or
    ``tcp`` (MBAP headers). Never guessed; all devices on one line have the same."""
    unit: Annotated[int, Field(ge=0, le=255)] | None = None
    """Unit address; left out: the one that the profile names."""
    profile_file: Path | None = None
    """Profile of your own, with ``driver = "modbus"``."""
    options: Mapping[str, str] = {}
    """Variants of the device, where its profile has some."""
    echo: bool = False
    """The adapter hears itself, so each request comes back before its answer."""
    ignore_unit_id: bool = False
    """With ``framing = "tcp"``: take answers in the name of another unit, as some gateways give them."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        wrong = list(self._wrong_framing())
        try:
            wrong += _wrong_options(self.profile.options, self.options)
        except ValueError as error:
            wrong.append(str(error))
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _wrong_framing(self) -> Iterator[str]:
        if self.framing == "tcp":
            if not self.line.startswith(("tcp:", "replay:")):
                yield 'framing "rtu" or "ascii" on a serial line, not "tcp"'
            if self.echo:
                yield 'no echo with framing "tcp"'
            return
        if self.ignore_unit_id:
            yield 'ignore_unit_id with framing "tcp" only: elsewhere the unit is all there is'
        if self.unit == 0:
            yield "unit 1 to 255: nobody answers to 0, the broadcast address"

    @property
    def profile(self) -> Profile:
        """The profile of ``driver`` or ``profile_file``.

        Raises:
            ValueError: there is none, or it has mistakes.
        """
        _, _, name = self.driver.partition(":")
        if bool(name) == (self.profile_file is not None):
            raise ValueError('driver = "modbus:NAME", or driver = "modbus" with profile_file = PATH')
        if self.profile_file is not None:
            return _own_profile(self.profile_file)
        try:
            return builtin(name)
        except KeyError:
            raise ValueError(f"a Modbus profile ({', '.join(names())}), not {name!r}") from None


def _own_profile(path: Path) -> Profile:
    try:
        return load_profile(path)
    except ConfigError as error:
        raise ValueError(str(error).replace("\n", "; ")) from error


def _wrong_options(known: Mapping[str, tuple[str, ...]], chosen: Mapping[str, str]) -> list[str]:
    wrong = [f"no option {option!r} in this profile" for option in chosen if option not in known]
    for option, values in known.items():
        if chosen.get(option) not in values:
            got = repr(chosen[option]) if option in chosen else "nothing"
            wrong.append(f"options.{option} one of {', '.join(values)}, not {got}")
    return wrong


class Modbus(PolledDriver[Config]):
    """Reads the registers of one profile from one unit; each read gives one row."""

    name = PREFIX
    family = "environment"
    summary = "Modbus RTU, ASCII and TCP devices, each described by a TOML profile (modbus:NAME)"
    config_model = Config
    codecs: ClassVar[ProfileCodecs] = ProfileCodecs()

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        try:
            self.profile = config.profile
        except ValueError as error:
            raise ConfigError(config.name, [Mistake("driver", str(error), config.driver)]) from error
        table = self.profile.device
        self.unit = table.unit if config.unit is None else config.unit
        self._settings = BusSettings(config.line, config.framing, config.echo)
        self.cost = ExchangeCost.of(
            config.line,
            config.framing,
            answer_s=table.answer_ms / 1000,
            gap_s=table.min_gap_ms / 1000,
        )
        self._plan = DevicePlan(self.profile, config.options, self.cost.ns)
        self._party = Party(
            device=config.name,
            timeout_s=config.timeout_s if "timeout_s" in config.model_fields_set else table.timeout_s,
            gap_s=table.min_gap_ms / 1000,
            ignore_unit_id=config.ignore_unit_id,
        )
        self._lines: Lines | None = None
        self._bus: ModbusBus | None = None

    def streams(self) -> tuple[Stream, ...]:
        return (
            self.profile.stream(self.config.name, site=self.config.site or "", options=self.config.options),
        )

    async def connect(self, lines: Lines) -> None:
        bus = lines.share(self.config.line, lambda: ModbusBus(self._settings))
        self._lines, self._bus = lines, bus
        if bus.settings != self._settings:
            raise LineError(self.config.line, f"another device uses it with {bus.settings}")
        await bus.connect(lines)

    async def close(self) -> None:
        lines, self._lines, self._bus = self._lines, None, None
        if lines is not None:
            await lines.release(self.config.line)

    async def read(self) -> Sequence[Observed]:
        if self._bus is None:
            raise LineError(self.config.line, "is not open")
        clock = asyncio.get_running_loop().time
        due_s = clock() + self.config.interval_s
        values: dict[str, Value] = {}
        refusal: DeviceRefused | None = None
        left = deque(self._plan.requests(clock()))
        while left:
            request = left.popleft()
            try:
                answer = await self._ask(self._bus, request, due_s)
            except DeviceRefused as error:
                # A model without one of the sensors refuses its registers and has good values in others.
                refusal = error
                if error.code in WRONG_REGISTERS:
                    left.extendleft(reversed(self._plan.refused(request, clock())))
            except DeviceTimeout:
                narrower = self._plan.silent(request, clock())
                if not narrower:
                    raise
                left.extendleft(reversed(narrower))
            else:
                self._plan.answered(request)
                values |= request.values(answer)
        if refusal is None:
            self._plan.read_whole(clock())
        elif not values:
            self._plan.refused_all()
            raise refusal
        return [Observed(self.profile.device.measurement, values, quality_of(values))]

    async def _ask(self, bus: ModbusBus, request: Request, due_s: float) -> Sequence[int]:
        question = ask(self.unit, request.function, request.address, request.count)
        answer = await bus.ask(question, self._party, due_s=due_s)
        return bits_of(answer) if request.function in READ_BITS else registers_of(answer)

    def planned(self) -> tuple[Request, ...]:
        """What a read asks for once the device has answered, unless it refuses some of it."""
        return self.profile.requests(self.config.options, cost=self.cost.ns, wide=True)

    def troubles(self) -> Mapping[str, int]:
        """Good answers and each kind of trouble with this unit since the line's bus was made."""
        return {} if self._bus is None else self._bus.counters(self.unit)

"""What the transducers of an XDR sentence measure: by configuration, or by the ids of a Vaisala WXT530."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trisense.core.model import Field
from trisense.drivers.sdk import Observed
from trisense.drivers.wxt.fields import GROUPS, HEATER_STATES, UNITS, converted, field_of

__all__ = ["CUSTOM", "Transducers", "of_wxt", "quantity_of"]

CUSTOM: Final = "xdr"
QUANTITIES: Final[Mapping[str, tuple[str, str]]] = {
    "A": ("direction", "deg"),
    "C": ("temperature", "Cel"),
    "H": ("humidity", "%"),
    "P": ("pressure", "hPa"),
    "R": ("rain", "mm/h"),
    "S": ("speed", "m/s"),
    "U": ("voltage", "V"),
    "V": ("rain", "mm"),
    "Z": ("time", "s"),
}
"""By type letter: the quantity and the unit that its values are converted to."""
WXT_IDS: Final[Mapping[str, Sequence[str]]] = {
    "A": GROUPS["wind"][:3],
    "S": GROUPS["wind"][3:],
    "C": ("air_temperature", "internal_temperature", "heating_temperature"),
    "H": ("relative_humidity",),
    "P": ("barometric_pressure",),
    "V": ("rain_amount_total", "hail_amount"),
    "Z": ("rain_duration", "hail_duration"),
    "R": ("rain_rate", "hail_rate", "rain_rate_peak", "hail_rate_peak"),
    "U": ("heating_voltage", "supply_voltage", "reference_voltage"),
}
"""Names by id at address 0. The guide contradicts itself about U 0 and 1: see ``_supply``."""
HEATER_LETTERS: Final = frozenset(HEATER_STATES) - {"V"}


def quantity_of(kind: str) -> tuple[str, str] | None:
    """Quantity and unit of a type letter, where it has one."""
    return QUANTITIES.get(kind)


@dataclass(frozen=True, slots=True)
class Transducers:
    """Names of transducers by type and id, and the stream that each name belongs to."""

    names: Mapping[tuple[str, str], str]
    streams: Mapping[str, str]
    wxt: bool = False

    def fields(self) -> Mapping[str, Sequence[Field]]:
        """The fields of each stream."""
        found: dict[str, list[Field]] = {}
        for name, stream in self.streams.items():
            found.setdefault(stream, []).append(field_of(name))
        return found

    def rows(self, told: Sequence[Mapping[str, Any]]) -> list[Observed]:
        """The rows of one sentence; a transducer without a name, or with a unit of another kind, has none."""
        rows: dict[str, dict[str, float | str]] = {}
        if self.wxt:
            told = [self._supply(one, told) for one in told]
        for one in told:
            name = self.names.get((one["type"], one["id"]))
            if name is None:
                continue
            row = rows.setdefault(self.streams[name], {})
            quantity = (
                "hail" if name.startswith("hail") and one["type"] != "Z" else QUANTITIES[one["type"]][0]
            )
            if self.wxt and name == "heating_voltage":
                if one["unit"] in HEATER_STATES:
                    row[name], row["heating_state"] = one["value"], HEATER_STATES[one["unit"]]
            elif one["unit"] in UNITS[quantity]:
                row[name] = converted(one["value"], one["unit"], quantity)
        return [Observed(stream, values) for stream, values in rows.items()]

    def _supply(self, one: Mapping[str, Any], told: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Heating and supply under the ids that ``WXT_IDS`` has, by the letter that only heating has."""
        ids = {name: key[1] for key, name in self.names.items() if name in GROUPS["supervisor"]}
        pair = (ids["heating_voltage"], ids["supply_voltage"])
        if one["type"] != "U" or one["id"] not in pair:
            return one
        letters = {other["id"]: other["unit"] for other in told if other["type"] == "U"}
        swapped = letters.get(pair[1]) in HEATER_LETTERS and letters.get(pair[0]) not in HEATER_LETTERS
        return {**one, "id": pair[1 - pair.index(one["id"])]} if swapped else one


def of_wxt(address: str) -> Transducers:
    """The ids that a WXT530 uses at ``address``, which is added to each."""
    first = int(address, 36)
    names = {
        (kind, _identity(first + number)): name
        for kind, known in WXT_IDS.items()
        for number, name in enumerate(known)
    }
    streams = {
        name: f"{CUSTOM}_{group}"
        for group, members in GROUPS.items()
        for name in (_total(member) for member in members)
    }
    return Transducers(names, {**streams, "heating_state": f"{CUSTOM}_supervisor"}, wxt=True)


def _total(name: str) -> str:
    return "rain_amount_total" if name == "rain_amount" else name


def _identity(number: int) -> str:
    """Ids go on with letters behind 9."""
    return str(number) if number < 10 else chr(ord("A") + number - 10)

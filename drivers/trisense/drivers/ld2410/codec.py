"""Frames of the LD2410: basic and engineering reports, replies to commands."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.core.model import Quality, Value
from trisense.drivers import hilink
from trisense.drivers.framing import Cut, Decoder, FramedCodec
from trisense.drivers.sdk import Frame, Observed

__all__ = ["GATES", "Ld2410Codec", "Ld2410Decoder"]

GATES: Final = 9
KINDS: Final = {2: ("basic", 13), 1: ("engineering", 35)}
"""Name and length of the payload."""
BEGIN, END = 0xAA, b"\x55\x00"
READ_PARAMETERS, READ_FIRMWARE = 0x61, 0xA0
MOVING, STATIONARY = 1, 2
"""Bits of the state."""
NOBODY_TO_BOTH: Final = range(4)


class Ld2410Decoder(Decoder):
    max_frame = hilink.ENVELOPE_BYTES + hilink.REPLY_MAX

    def cut(self, data: bytes, start: int) -> Cut | None:
        head = data[start : start + 4]
        if hilink.REPORT_HEAD.startswith(head):
            return hilink.report(data, start, KINDS[1][1], _report)
        if hilink.REPLY_HEAD.startswith(head):
            return hilink.reply(data, start, _meaning)
        return Cut(1)


def _report(payload: bytes) -> Frame | str:
    name, size = KINDS.get(payload[0], ("", 0)) if payload else ("", 0)
    if len(payload) != size or payload[1] != BEGIN or not payload.endswith(END):
        return "no report"
    state, moving, energy, stationary, still_energy, detection = struct.unpack_from("<BHBHBH", payload, 2)
    frame: Frame = {
        "type": name,
        "target_state": state,
        "moving_cm": moving,
        "moving_energy": energy,
        "static_cm": stationary,
        "static_energy": still_energy,
        "detection_cm": detection,
    }
    energies = [energy, still_energy]
    if name == "engineering":
        gates = payload[13 : 13 + 2 * GATES]
        frame |= {
            "max_moving_gate": payload[11],
            "max_static_gate": payload[12],
            "moving_gate_energy": list(gates[:GATES]),
            "static_gate_energy": list(gates[GATES:]),
            "light": payload[31],
            "out_pin": payload[32],
        }
        energies += gates
    return "implausible" if max(energies) > 100 else frame


def _meaning(frame: Frame, data: bytes) -> None:
    if frame["command"] == READ_FIRMWARE and len(data) == 8:
        _, minor, major, revision = struct.unpack("<HBBI", data)
        frame["firmware"] = f"V{major:x}.{minor:02x}.{revision:08x}"
    elif frame["command"] == READ_PARAMETERS and len(data) == 24 and data[0] == BEGIN:
        frame |= {
            "max_gate": data[1],
            "moving_gate": data[2],
            "static_gate": data[3],
            "moving_sensitivity": list(data[4 : 4 + GATES]),
            "static_sensitivity": list(data[4 + GATES : 4 + 2 * GATES]),
            "no_one_s": int.from_bytes(data[22:], "little"),
        }


class Ld2410Codec(FramedCodec):
    decoder = Ld2410Decoder

    def observed(self, frame: Frame) -> Sequence[Observed]:
        if "target_state" not in frame:
            return ()
        state = frame["target_state"]
        values: dict[str, Value] = {
            "moving_energy": frame["moving_energy"],
            "stationary_energy": frame["static_energy"],
        }
        quality = {}
        if state in NOBODY_TO_BOTH:
            values |= {"presence": int(state > 0), "moving": state & MOVING, "stationary": state >> 1}
            # What the state does not vouch for is left over from an earlier report.
            if state & MOVING:
                values["moving_distance"] = frame["moving_cm"] / 100
            if state & STATIONARY:
                values["stationary_distance"] = frame["static_cm"] / 100
        else:
            quality = dict.fromkeys(("presence", "moving", "stationary"), Quality.MISSING)
        if "light" in frame:
            values |= {"light": frame["light"], "out_pin": frame["out_pin"]}
            values |= {f"moving_energy_{n}": energy for n, energy in enumerate(frame["moving_gate_energy"])}
            values |= {
                f"stationary_energy_{n}": energy for n, energy in enumerate(frame["static_gate_energy"])
            }
        return [Observed("radar_presence", values, quality)]

    def encode(self, expected: Mapping[str, Any]) -> bytes | None:
        return hilink.encoded(expected)

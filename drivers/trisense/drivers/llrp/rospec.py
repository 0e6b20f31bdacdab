"""ROSpec and reader configuration: the nested parameters of LLRP against the sheet's flat names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trisense.core.errors import FrameError
from trisense.drivers.llrp.parameters import Param, build
from trisense.drivers.sdk import Frame

__all__ = ["config_bytes", "config_frame", "rospec_bytes", "rospec_frame"]

EPC_C1G2: Final = 1
"""ProtocolID of EPC class 1 generation 2."""


def rospec_frame(params: Sequence[Param]) -> Frame:
    """ADD_ROSPEC: the ROSpec with its first AISpec, flat.

    Raises:
        FrameError: a parameter that the standard demands is missing.
    """
    if len(params) != 1 or params[0].name != "ROSpec":
        raise FrameError("llrp", "ADD_ROSPEC without one ROSpec")
    spec = params[0]
    boundary = _need(spec, "ROBoundarySpec")
    stop = _need(boundary, "ROSpecStopTrigger")
    frame: Frame = {
        **spec.values,
        "start_trigger": _need(boundary, "ROSpecStartTrigger").values["ROSpecStartTriggerType"],
        "stop_trigger": stop.values["ROSpecStopTriggerType"],
        "stop_duration_ms": stop.values["DurationTriggerValue"],
    }
    inventory = spec.find("AISpec")
    if inventory:
        frame |= _aispec_frame(inventory)
    report = spec.find("ROReportSpec")
    if report is None:
        frame["ROReportSpec"] = None
    else:
        frame |= _report_frame(report)
    return frame


def _aispec_frame(aispec: Param) -> Frame:
    stop = _need(aispec, "AISpecStopTrigger")
    inventory = _need(aispec, "InventoryParameterSpec")
    antennas = [_antenna_frame(p) for p in inventory.each("AntennaConfiguration")]
    frame: Frame = {
        "AntennaIDs": aispec.values["AntennaIDs"],
        "AISpecStop": stop.values["AISpecStopTriggerType"],
        "AISpecStop_duration_ms": stop.values["DurationTrigger"],
        **inventory.values,
        "antenna_configurations": antennas,
    }
    if len(antennas) == 1:
        frame["AntennaConfiguration"] = antennas[0]
    return frame


def _antenna_frame(antenna: Param) -> Frame:
    frame = dict(antenna.values)
    command = antenna.find("C1G2InventoryCommand")
    inside = [*antenna.params, *(command.params if command else ())]
    for param in inside:
        if param.name in ("RFReceiver", "RFTransmitter", "C1G2RFControl", "C1G2SingulationControl"):
            frame |= param.values
    if command:
        frame |= command.values
    return frame


def _report_frame(report: Param) -> Frame:
    frame = dict(report.values)
    selector = report.find("TagReportContentSelector")
    if selector:
        frame |= selector.values
        memory = selector.find("C1G2EPCMemorySelector")
        frame |= memory.values if memory else {}
    return frame


def config_frame(params: Sequence[Param]) -> Frame:
    """SET_READER_CONFIG, flat: only what the message sets is there."""
    frame: Frame = {}
    for param in params:
        match param.name:
            case "ReaderEventNotificationSpec":
                states = [p.values for p in param.each("EventNotificationState")]
                frame["events"] = {str(s["EventType"]): s["NotificationState"] for s in states}
            case "ROReportSpec":
                frame |= _report_frame(param)
            case "KeepaliveSpec":
                frame["KeepaliveTriggerType"] = param.values["KeepaliveTriggerType"]
                frame["KeepalivePeriod_ms"] = param.values["PeriodicTriggerValue"]
            case "AccessReportSpec" | "EventsAndReports" | "LLRPConfigurationStateValue":
                frame |= param.values
            case "AntennaConfiguration":
                frame.setdefault("antenna_configurations", []).append(_antenna_frame(param))
    return frame


def _need(parent: Param, name: str) -> Param:
    found = parent.find(name)
    if found is None:
        raise FrameError("llrp", f"{parent.name} without {name}")
    return found


def _pick(frame: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: frame[name] for name in names if name in frame}


def rospec_bytes(frame: Mapping[str, Any]) -> bytes:
    """The ROSpec parameter that ``rospec_frame`` reads; what the frame leaves out is 0."""
    antennas = frame.get("antenna_configurations") or [frame.get("AntennaConfiguration") or {}]
    inventory = Param(
        "InventoryParameterSpec",
        {
            "InventoryParameterSpecID": frame.get("InventoryParameterSpecID", 1),
            "ProtocolID": frame.get("ProtocolID", EPC_C1G2),
        },
        [_antenna_param(antenna) for antenna in antennas],
    )
    ai_stop = {
        "AISpecStopTriggerType": frame.get("AISpecStop", 0),
        "DurationTrigger": frame.get("AISpecStop_duration_ms", 0),
    }
    stop = {
        "ROSpecStopTriggerType": frame.get("stop_trigger", 0),
        "DurationTriggerValue": frame.get("stop_duration_ms", 0),
    }
    boundary = [
        Param("ROSpecStartTrigger", {"ROSpecStartTriggerType": frame.get("start_trigger", 0)}),
        Param("ROSpecStopTrigger", stop),
    ]
    aispec = Param("AISpec", _pick(frame, "AntennaIDs"), [Param("AISpecStopTrigger", ai_stop), inventory])
    params = [Param("ROBoundarySpec", {}, boundary), aispec]
    if "ROReportTrigger" in frame:
        params.append(_report_param(frame))
    return build(Param("ROSpec", _pick(frame, "ROSpecID", "Priority", "CurrentState"), params))


def _antenna_param(antenna: Mapping[str, Any]) -> Param:
    inside = [Param("C1G2SingulationControl", _pick(antenna, "Session", "TagPopulation", "TagTransitTime"))]
    if "ModeIndex" in antenna:
        inside.insert(0, Param("C1G2RFControl", _pick(antenna, "ModeIndex", "Tari")))
    command = Param("C1G2InventoryCommand", _pick(antenna, "TagInventoryStateAware"), inside)
    params = []
    if "ReceiverSensitivity" in antenna:
        params.append(Param("RFReceiver", _pick(antenna, "ReceiverSensitivity")))
    if "TransmitPower" in antenna:
        params.append(Param("RFTransmitter", _pick(antenna, "HopTableID", "ChannelIndex", "TransmitPower")))
    return Param("AntennaConfiguration", _pick(antenna, "AntennaID"), [*params, command])


def _report_param(frame: Mapping[str, Any]) -> Param:
    memory = _pick(frame, "EnableCRC", "EnablePCBits")
    selector = Param(
        "TagReportContentSelector",
        _pick(frame, "selector_bits"),
        [Param("C1G2EPCMemorySelector", memory)] if memory else [],
    )
    return Param("ROReportSpec", _pick(frame, "ROReportTrigger", "N"), [selector])


def config_bytes(frame: Mapping[str, Any]) -> bytes:
    """The parameters of SET_READER_CONFIG that ``config_frame`` reads; only what the frame names is set."""
    params = []
    if "events" in frame:
        states = [
            Param("EventNotificationState", {"EventType": int(number), "NotificationState": on})
            for number, on in frame["events"].items()
        ]
        params.append(Param("ReaderEventNotificationSpec", {}, states))
    if "ROReportTrigger" in frame:
        params.append(_report_param(frame))
    if "AccessReportTrigger" in frame:
        params.append(Param("AccessReportSpec", _pick(frame, "AccessReportTrigger")))
    if "KeepalivePeriod_ms" in frame:
        keepalive = {
            "KeepaliveTriggerType": frame.get("KeepaliveTriggerType", 1),
            "PeriodicTriggerValue": frame["KeepalivePeriod_ms"],
        }
        params.append(Param("KeepaliveSpec", keepalive))
    if "HoldEventsAndReportsUponReconnect" in frame:
        params.append(Param("EventsAndReports", _pick(frame, "HoldEventsAndReportsUponReconnect")))
    return b"".join(build(param) for param in params)

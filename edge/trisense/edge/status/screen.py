"""The picture of a box as text for a terminal: what is wrong first. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from trisense.core.cli import plain
from trisense.edge.status.model import Alarm, Bus, Device, Field, Line, Status, Stream

__all__ = ["UNITS", "count", "duration", "number", "plain", "screen", "size"]

LINES_SHOWN: Final = 10
MARKS: Final = {3: "?", 4: "!"}
"""Behind a value that is suspect, or failed its test."""
ORDER: Final = {"failing": 0, "waiting": 1, "good": 2}
LABEL: Final = 9
LONG: Final = ("BUS", "LINE", "LANES")
"""Rows that give way to devices."""
STALE_S: Final = 5.0
UNITS: Final = {"Cel": "°C", "deg": "°", "1": ""}


def screen(status: Status, console: Console, *, height: int | None = None) -> RenderableType:
    """Everything as one renderable; with ``height`` as many devices as fit into so many lines."""
    head = [_title(status), _problems(status)]
    foot = _foot(status)
    devices = sorted(status.devices, key=lambda d: (ORDER[d.state], d.name))
    if height is not None:
        room = height - _height(console, [*head, _heading(status), foot])
        if room < len(devices):
            foot = _foot(status, brief=True)
            room = height - _height(console, [*head, _heading(status), foot])
        if room < len(devices):
            devices = devices[: max(0, room - 1)]
    hidden = len(status.devices) - len(devices)
    more = [Text(f"  and {hidden} more", style="dim")] if hidden else []
    return Group(*head, _heading(status), _devices(devices, console.width), *more, foot)


def _height(console: Console, parts: Sequence[RenderableType]) -> int:
    return sum(len(console.render_lines(part, pad=False)) for part in parts)


def _title(status: Status) -> Text:
    box = status.box
    title = Text(f"{box.id} at {box.site}", style="bold")
    came = " from afar" if box.config_source == "remote" else ""
    rest = f"  up {duration(box.up_s)}  trisense {box.version}  configuration {box.config_hash}{came}"
    return title.append(rest, style="not bold")


def _problems(status: Status) -> RenderableType:
    if not status.problems:
        return Text("All is well.", style="green")
    table = _grid()
    for problem in status.problems:
        since = "" if problem.for_s is None else f"for {duration(problem.for_s)}: "
        name = Text(f"{problem.name}: ", style="bold") if problem.name else Text()
        table.add_row(
            Text(problem.part, style="bold red"), name.append(since + plain(problem.text), style="not bold")
        )
    said = count(len(status.problems), "thing is wrong", "things are wrong")
    return Group(Text(said, style="bold red"), table)


def _heading(status: Status) -> Text:
    good = sum(device.state == "good" for device in status.devices)
    return Text(f"DEVICES  {good} of {len(status.devices)} good", style="bold")


def _devices(devices: Sequence[Device], width: int) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    longest = max((len(device.name) for device in devices), default=0)
    table.add_column(no_wrap=True, width=2 + min(longest, max(12, width // 5)))
    table.add_column(no_wrap=True, width=min(22, max(8, width // 7)))
    table.add_column(no_wrap=True, width=7, justify="right")
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    for device in devices:
        age = "-" if device.age_s is None else duration(device.age_s)
        style = {"failing": "red", "waiting": "yellow"}.get(device.state, "")
        mark = {"failing": "x ", "waiting": "- "}.get(device.state, "  ")
        driver = device.driver.removeprefix("modbus:")
        row = [Text(mark + device.name), Text(driver), Text(age), Text(_says(device))]
        for cell in row:
            cell.overflow = "ellipsis"
        table.add_row(*row, style=style)
    return table


def _says(device: Device) -> str:
    """Last values, or what a device without them does."""
    if device.state == "failing":
        when = "now" if not device.next_try_s else f"in {duration(device.next_try_s)}"
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(device.reasons.items()))
        return f"{kinds}; tried again {when}"
    if device.state == "waiting":
        what = "connected, nothing said yet" if device.connected else device.step
        return f"{what} (for {duration(device.step_s)})"
    return "  ".join(_row(stream, device.age_s or 0.0) for stream in device.streams)


def _row(stream: Stream, age_s: float) -> str:
    """Values of one stream, with its age where the device has said something else since."""
    said = "  ".join(_value(field) for field in stream.fields)
    return said if stream.age_s - age_s < STALE_S else f"{said} ({duration(stream.age_s)} ago)"


def _value(field: Field) -> str:
    unit = UNITS.get(field.unit, field.unit)
    if field.value is None or unit.startswith("{"):
        unit = ""
    said = number(field.value) + MARKS.get(field.quality, "")
    return f"{field.name} {said} {unit}".rstrip()


def _foot(status: Status, *, brief: bool = False) -> RenderableType:
    """All but the devices; ``brief``: the most important, in a line each."""
    if brief:
        return Group(*(_cut(label, text) for label, text in _rows(status) if label not in LONG))
    table = _grid()
    for label, text in _rows(status):
        table.add_row(Text(label, style="bold"), Text(plain(text)))
    return table


def _cut(label: str, text: str) -> Text:
    """One line, however long it is."""
    line = Text(label.ljust(LABEL), style="bold", no_wrap=True, overflow="ellipsis")
    return line.append(plain(text), style="not bold")


def _rows(status: Status) -> Iterator[tuple[str, str]]:
    if status.alarms:
        yield "ALARMS", "; ".join(map(_alarm, status.alarms))
    yield from (("BUS", _bus(bus)) for bus in status.buses)
    yield from (("LINE", text) for text in _lines(status))
    yield "LINK", ", ".join(_link(status))
    if any(lane.bundles for lane in status.link.lanes.values()):
        yield "LANES", "; ".join(_lanes(status))
    yield "SPOOL", "; ".join(_spool(status))
    if status.box.closed is not None:
        yield "AFAR", f"all is refused: {status.box.closed}"
    yield "CLOCK", _clock(status)
    yield "MACHINE", ", ".join(_machine(status))


def _lines(status: Status) -> Iterator[str]:
    """The lines that are no Modbus bus, those first that were opened most often."""
    on_buses = {bus.line for bus in status.buses}
    lines = [line for line in status.lines if line.line not in on_buses]
    damaged = {device.name: device.damaged for device in status.devices}
    for line in sorted(lines, key=lambda x: -x.opened)[:LINES_SHOWN]:
        yield _line(line, sum(damaged[name] for name in line.devices))
    if len(lines) > LINES_SHOWN:
        yield f"and {len(lines) - LINES_SHOWN} more"


def _alarm(alarm: Alarm) -> str:
    what = f"{alarm.device}.{alarm.field}" if alarm.field else alarm.device
    return f"{alarm.rule} ({alarm.priority}): {what} for {duration(alarm.for_s)}"


def _bus(bus: Bus) -> str:
    measured = "" if bus.measured is None else f", busy {bus.measured:.0%}"
    troubles = "".join(f", {count} {kind}" for kind, count in sorted(bus.troubles.items()))
    asks = count(len(bus.devices), "device asks", "devices ask")
    return f"{_short(bus.line)}: {asks} for {bus.planned:.0%}{measured}{troubles}"


def _line(line: Line, damaged: int) -> str:
    said = f"{size(line.received_bytes)} in, {size(line.sent_bytes)} out"
    opened = f", opened {line.opened} times" if line.opened > 1 else ""
    frames = f", frames damaged: {damaged}" if damaged else ""
    return f"{_short(line.line)}: {said}{opened}{frames}"


def _link(status: Status) -> Iterator[str]:
    link = status.link
    how = "connected" if link.connected else "not connected"
    yield f"{link.broker} {how} for {duration(link.for_s)}"
    if link.limited_by is not None:
        yield f"{link.limited_by} let {link.allowed} go"
    if link.round_trip_s is not None:
        yield f"receipt after {duration(link.round_trip_s)}"
    yield f"{count(link.gateways, 'gateway', 'gateways')} online"
    if link.left_bytes is not None:
        yield f"{size(link.used_bytes)} used today, {size(link.left_bytes)} left"
    again = f", {size(link.resent_bytes)} of it again" if link.resent_bytes else ""
    yield f"{size(link.payload_bytes)} sent{again}"
    if link.refused:
        yield f"{link.refused} batches refused"


def _lanes(status: Status) -> Iterator[str]:
    for name, lane in status.link.lanes.items():
        if lane.bundles:
            way = f", {count(lane.on_the_way, 'batch', 'batches')} unanswered" if lane.on_the_way else ""
            yield f"{name} {count(lane.bundles, 'bundle', 'bundles')}, {size(lane.payload_bytes)}{way}"


def _spool(status: Status) -> Iterator[str]:
    spool = status.spool
    yield f"{size(spool.size_bytes)} of {size(spool.cap_bytes)}"
    for name, queue in spool.waiting.items():
        yield f"{name} {count(queue.batches, 'batch', 'batches')} waiting for {duration(queue.oldest_s)}"
    if not spool.waiting:
        yield "nothing waits"
    if spool.kept_s is not None:
        yield f"{duration(spool.kept_s)} kept for a refill"
    commits = f"{spool.commits_per_min:.0f} commits/min"
    if spool.commit_p50_s is not None and spool.commit_p99_s is not None:
        half_ms, most_ms = spool.commit_p50_s * 1000, spool.commit_p99_s * 1000
        commits += f", half within {half_ms:.1f} ms, 99 % within {most_ms:.1f} ms"
    yield commits


def _clock(status: Status) -> str:
    clock = status.clock
    now = datetime.fromtimestamp(clock.now_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    error = "" if clock.error_ms is None else f" within {_milliseconds(clock.error_ms)}"
    ahead = f", held back from {duration(clock.held_back_s)} ahead" if clock.held_back_s else ""
    return f"{now}, {clock.mode}{error}{ahead}"


def _milliseconds(amount_ms: int) -> str:
    return f"{amount_ms} ms" if amount_ms < 10_000 else duration(amount_ms / 1000)


def _machine(status: Status) -> Iterator[str]:
    of = status.machine
    if of.disk_free_bytes is not None and of.disk_bytes is not None:
        yield f"disk {size(of.disk_free_bytes)} free of {size(of.disk_bytes)}"
    if of.temperature_c is not None:
        yield f"{of.temperature_c:.0f} °C"
    if of.cpu is not None:
        yield f"CPU {of.cpu:.1%}"
    yield f"memory {size(of.rss_bytes)}"


def count(number: int, one: str, many: str) -> str:
    """A number and what it counts."""
    return f"{number} {one if number == 1 else many}"


def _grid() -> Table:
    """Labels and texts that wrap beside them."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(min_width=LABEL - 1, no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _short(url: str) -> str:
    """A line's URL without its options."""
    return url.partition("?")[0].removeprefix("serial://")


def number(value: float | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else plain(str(value))


def duration(seconds: float) -> str:
    """About three digits and a unit."""
    for limit, unit_s, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            amount = seconds / unit_s
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def size(count_bytes: float) -> str:
    """With a decimal prefix, as disks are sold."""
    for unit in ("B", "kB", "MB"):
        if count_bytes < 1000:
            return (
                f"{count_bytes:.0f} {unit}"
                if unit == "B" or count_bytes >= 100
                else f"{count_bytes:.1f} {unit}"
            )
        count_bytes /= 1000
    return f"{count_bytes:.1f} GB"

"""Columns to InfluxDB line protocol, built here because speed is in doing a column at a time.

A line: ``measurement,box=..,device=..,layer=..[,n=..],site=.. field=..,field_q=..i time``. Tags are sorted,
``n`` only where > 0; integers carry ``i``, floats are the shortest text that reads back as the same bits,
null fields are left out. Measured on one core, from arrays: 3.4 M readings/s by one %-format per row, 8 M by
texts per column from a table of short decimals (those of a sensor repeat).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from trisense.core.errors import ValueRefused
from trisense.core.model import FieldType
from trisense.core.wire import Block, Column
from trisense.gateway.stores.columns import Portion, rows_of

if TYPE_CHECKING:
    from trisense.core.wire.bundle import Values

__all__ = ["EMPTY", "Lines", "emit", "halves", "lines_of", "requests"]

PIECE_ROWS: Final = 1_000
REQUEST_LINES: Final = 5_000
REQUEST_BYTES: Final = 1_000_000
"""Of text (characters, in fact). Safe on every server (a 26 MB request made a 1.6 server grow to 1.2 GB)."""
TABLE_FROM_ROWS: Final = 32
"""Below it making a table of texts costs more than it saves."""
NAMES_KEPT: Final = 16_384
EMPTY: Final = "_empty"
"""Field of a sample that has no other: a line must have one, and a sample of nulls is still a row."""

_ESCAPE_MEASUREMENT: Final = re.compile(r"([, ])")
_ESCAPE_KEY: Final = re.compile(r"([,= ])")
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f]|\\\Z|\A\Z")
"""No server keeps control characters in names apart, nor a tag that ends in a backslash, nor an empty one."""


class Lines(NamedTuple):
    """Whole lines, each with its newline."""

    text: str
    lines: int


def lines_of(portions: Iterable[Portion], *, texts: bool, time_divisor: int) -> Iterator[Lines]:
    """Lines of the chosen batches. ``texts`` False leaves string fields out (VictoriaMetrics)."""
    for portion in portions:
        for block in portion.bundle.blocks:
            chosen = None if portion.whole else rows_of(block, portion.heads)
            yield from emit(
                block,
                box=portion.bundle.box,
                site=block.stream.site or portion.bundle.site,
                chosen=chosen,
                texts=texts,
                time_divisor=time_divisor,
            )


def emit(
    block: Block,
    *,
    box: str,
    site: str,
    chosen: NDArray[np.intp] | None = None,
    texts: bool = True,
    time_divisor: int = 1,
) -> Iterator[Lines]:
    """Lines of a block, ``PIECE_ROWS`` at a time.

    Raises:
        ValueRefused: a name that no server could keep apart.
    """
    rows = len(block.times_ns) if chosen is None else len(chosen)
    if rows == 0:
        return
    columns = [c for c in block.columns if texts or c.field.type is not FieldType.STR]
    cells = [_cells(column, chosen) for column in columns]
    ends = _ends(_taken(block.times_ns, chosen).tobytes(), time_divisor)
    heads = _heads(block, box, site, _taken(block.ordinals, chosen))
    anchor = _anchor(columns, chosen)
    if anchor is None:
        # Somewhere every field may be null: no field is sure to come first, so each line is looked at.
        bodies = ["".join(row)[1:] or f"{EMPTY}=1i" for row in zip(*cells, strict=True)] if cells else None
        cells = [bodies if bodies is not None else [f"{EMPTY}=1i"] * rows]
    else:
        first = [cell[1:] for cell in cells.pop(anchor)]
        cells.insert(0, first)
    for start in range(0, rows, PIECE_ROWS):
        part = slice(start, start + PIECE_ROWS)
        head = heads[part] if isinstance(heads, list) else repeat(heads)
        text = "".join(chain.from_iterable(zip(head, *(cell[part] for cell in cells), ends[part])))  # noqa: B905  # head may be endless
        yield Lines(text, min(PIECE_ROWS, rows - start))


def requests(lines: Iterable[Lines]) -> Iterator[Lines]:
    """Gather lines into what one request may carry."""
    waiting: list[str] = []
    size = count = 0
    for piece in chain.from_iterable(map(_fitting, lines)):
        if waiting and (count + piece.lines > REQUEST_LINES or size + len(piece.text) > REQUEST_BYTES):
            yield Lines("".join(waiting), count)
            waiting, size, count = [], 0, 0
        waiting.append(piece.text)
        size += len(piece.text)
        count += piece.lines
    if waiting:
        yield Lines("".join(waiting), count)


def halves(lines: Lines) -> tuple[Lines, Lines]:
    """Split at a line's end near the middle; there must be two lines."""
    # Not splitlines(): text may hold U+2028 and others that it takes for line ends.
    split = [line + "\n" for line in lines.text.split("\n")[:-1]]
    middle = len(split) // 2
    return Lines("".join(split[:middle]), middle), Lines("".join(split[middle:]), len(split) - middle)


def _fitting(lines: Lines) -> Iterator[Lines]:
    if len(lines.text) <= REQUEST_BYTES or lines.lines == 1:
        yield lines
    else:
        for half in halves(lines):
            yield from _fitting(half)


@lru_cache(maxsize=16)
def _ends(times_ns: bytes, divisor: int) -> list[str]:
    """The ends of lines; streams that are read together share their times."""
    times: list[int] = (np.frombuffer(times_ns, np.int64) // divisor).tolist()
    return [f" {time}\n" for time in times]


def _heads(block: Block, box: str, site: str, ordinals: NDArray[np.int64]) -> str | list[str]:
    stream = block.stream
    start = (
        f"{_measurement(stream.measurement)}"
        f",box={_key(box)},device={_key(stream.device)},layer={stream.layer.value}"
    )
    end = f",site={_key(site)} " if site else " "
    if not ordinals.any():
        return f"{start}{end}"
    made = {n: f"{start},n={n}{end}" if n else f"{start}{end}" for n in np.unique(ordinals).tolist()}
    return [made[n] for n in ordinals.tolist()]


def _anchor(columns: Sequence[Column], chosen: NDArray[np.intp] | None) -> int | None:
    """A column that has text in every row: it may stand first, without a comma."""
    for index, column in enumerate(columns):
        missing = np.asarray(column.nulls, np.intp)
        if chosen is not None and len(missing):
            missing = np.intersect1d(missing, chosen)
        if len(missing) == 0:
            return index
    return None


def _cells(column: Column, chosen: NDArray[np.intp] | None) -> list[str]:
    """``,name=value[,name_q=code]`` for each row, empty where there is neither."""
    key = f",{_key(column.field.name)}="
    nulls: Iterable[int] = column.nulls
    quality = column.quality
    values = column.values
    if chosen is not None:
        place = {int(row): i for i, row in enumerate(chosen)} if len(column.nulls) or quality else {}
        nulls = [place[row] for row in column.nulls if row in place]
        quality = {place[row]: code for row, code in quality.items() if row in place}
        values = values[chosen] if isinstance(values, np.ndarray) else [values[i] for i in chosen.tolist()]
    cells = _texts(key, values, column.field.type)
    for row in nulls:
        cells[row] = ""
    for row, code in quality.items():
        cells[row] += f"{key[:-1]}_q={code}i"
    return cells


def _texts(key: str, values: Values, type_: FieldType) -> list[str]:
    if len(values) < TABLE_FROM_ROWS and type_ is not FieldType.STR:
        end = "i" if type_ is FieldType.INT else ""
        plain = values.tolist() if isinstance(values, np.ndarray) else values
        return [f"{key}{value!r}{end}" for value in plain]
    if type_ is FieldType.STR:
        return _strings(key, [value if isinstance(value, str) else None for value in values])
    if type_ is FieldType.FLOAT:
        return _floats(key, _numbers(values).astype(np.float64, copy=False))
    return _integers(key, _numbers(values).astype(np.int64, copy=False))


def _numbers(values: Values) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    return np.array([0 if value is None else value for value in values])


def _floats(key: str, values: NDArray[np.float64]) -> list[str]:
    # Not a number (at a null row) compares false, and larger ones could overflow below.
    for texts in DECIMALS if np.abs(values).max() < Texts.BOUND else ():
        scaled = np.rint(values * texts.scale)
        found = texts.of(key, scaled) if (scaled / texts.scale == values).all() else None
        if found is not None:
            for row in np.flatnonzero((scaled == 0) & np.signbit(values)):
                found[row] = f"{key}-0.0"  # which no integer can say
            return found
    return [f"{key}{value!r}" for value in values.tolist()]


def _integers(key: str, values: NDArray[np.int64]) -> list[str]:
    found = INTEGERS.of(key, values)
    return [f"{key}{value}i" for value in values.tolist()] if found is None else found


class Texts:
    """Texts of small integers, or of these as decimals: made once, for readings repeat."""

    BOUND: ClassVar[int] = 32_768
    """Of their size; a full table takes about 4 MB."""

    def __init__(self, scale: float, form: Callable[[int], str]) -> None:
        self.scale: Final = scale
        self._form = form
        self._texts = np.empty(2 * self.BOUND, object)
        self._made = np.zeros(2 * self.BOUND, np.bool_)

    def of(self, key: str, numbers: NDArray[Any]) -> list[str] | None:
        """Key and text of each integral number; None where one of them is out of bounds."""
        if numbers.min() < -self.BOUND or numbers.max() >= self.BOUND:
            return None
        places = numbers.astype(np.intp) + self.BOUND
        if not self._made[places].all():
            new = np.unique(places[~self._made[places]])
            self._texts[new] = [self._form(place - self.BOUND) for place in new.tolist()]
            self._made[new] = True
        return [key + text for text in self._texts[places].tolist()]


def _decimals(scale: float) -> Texts:
    return Texts(scale, lambda number: repr(number / scale))


DECIMALS: Final = tuple(_decimals(scale) for scale in (10.0, 100.0, 1000.0, 1.0))
"""The likeliest first; whole numbers up to 3,276 pass as tenths."""
INTEGERS: Final = Texts(1.0, lambda number: f"{number}i")


def _strings(key: str, values: Sequence[str | None]) -> list[str]:
    made: dict[str | None, str] = {}
    cells = []
    for value in values:
        cell = made.get(value)
        if cell is None:
            cell = made[value] = f'{key}"{_string(value or "")}"'
        cells.append(cell)
    return cells


def _string(value: str) -> str:
    r"""Escape a string field; line ends become the two characters ``\n``: several servers split on them."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return escaped.replace("\r", "\\r").replace("\n", "\\n") if "\n" in value or "\r" in value else escaped


_BACKSLASH: Final = r"\\\1"


@lru_cache(maxsize=NAMES_KEPT)
def _key(name: str) -> str:
    return _ESCAPE_KEY.sub(_BACKSLASH, _fit(name))


@lru_cache(maxsize=NAMES_KEPT)
def _measurement(name: str) -> str:
    return _ESCAPE_MEASUREMENT.sub(_BACKSLASH, _fit(name))


def _fit(name: str) -> str:
    if _UNFIT.search(name):
        raise ValueRefused("name", repr(name)[:80])
    return name


def _taken(values: Sequence[int] | NDArray[np.int64], chosen: NDArray[np.intp] | None) -> NDArray[np.int64]:
    array = np.asarray(values, np.int64)
    return array if chosen is None else array[chosen]

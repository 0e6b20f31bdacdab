"""Hold every driver's codec against protocol vectors: ``run_vectors.py [--root DIR] [-v] FILE...``

A file is a JSON list of vectors, or an object with ``vectors``. A vector has ``id``, ``device``, ``expected``
and its input under ``hex`` or ``hex_or_text``: hex, text, a path below the root, a list or a dict of these.

* A valid vector passes when the codec gives exactly one good frame that holds every key of ``expected``.
* ``kind: stream``, or ``expected.frames``: just those frames, in their order.
* ``kind: corrupt``, or an ``expected`` that tells damage (``error``, ``..._ok: false``): no good frame. Where
  the kind is not ``corrupt``, a frame that tells the very same damage will do.
* ``dir`` or ``direction`` ``tx`` (host to device): encoding ``expected`` gives the bytes, or decoding them
  gives ``expected``.

Exit code 0: none failed; 1: some failed; 2: a file that holds no vectors.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trisense.core.errors import MissingExtra
from trisense.drivers import Codec, Frame, GivenCodec, Part
from trisense.drivers.registry import known, load

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
IGNORED = frozenset({"action", "note", "why", "then", "trap", "meaning", "tolerance", "source"})
STREAMS = ("frames", "messages")
RELATIVE = 1e-4
RELATIVE_OF = {"image-health": 0.02}
"""Two JPEG decoders differ in a few grey levels."""
HEX = re.compile(r"(?:0x)?(?:[0-9A-Fa-f]{2}[\s:]*)+")
PATH = re.compile(r"[\w.-]+(?:/[\w.{},-]+)+")
BRACES = re.compile(r"\{([^{}]*)\}")


class BadFile(Exception):
    """A file that holds no vectors."""


class Wrong(Exception):
    """Why a vector failed."""


@dataclass(frozen=True)
class Result:
    device: str
    id: str
    outcome: str
    reason: str = ""


# --- reading ----------------------------------------------------------------------------------------


def read_vectors(file: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadFile(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise BadFile(f"{file}: no JSON: {error}") from error
    vectors = content.get("vectors") if isinstance(content, dict) else content
    if not isinstance(vectors, list):
        raise BadFile(f"{file}: expected a list of vectors, or an object with one under 'vectors'")
    for index, vector in enumerate(vectors):
        if not isinstance(vector, dict) or not isinstance(vector.get("device"), str):
            raise BadFile(f"{file}: vector {index}: expected an object with a 'device'")
    return vectors


@dataclass
class Input:
    """What a vector feeds its codec with."""

    parts: list[Part] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    """What a dict among the inputs says besides."""
    text: bool = False

    @property
    def data(self) -> bytes:
        """All inputs one behind the other; lines of text stay lines."""
        return (b"\n" if self.text else b"").join(part.data for part in self.parts)


def input_of(vector: Mapping[str, Any], root: Path) -> Input:
    for key in ("hex", "hex_or_text", "ascii", "text"):
        if key in vector:
            found = Input()
            _collect(vector[key], key, root, found)
            return found
    raise Wrong("no hex and no text in it")


def _collect(value: object, key: str, root: Path, found: Input) -> None:
    if isinstance(value, str):
        _collect_text(value, key, root, found)
    elif isinstance(value, list):
        for item in value:
            _collect(item, key, root, found)
    elif isinstance(value, dict):
        for name, item in value.items():
            kind = "hex" if name.endswith("hex") else name
            if kind in ("hex", "hex_or_text", "text", "ascii", "path"):
                _collect(item, kind, root, found)
            else:
                found.context[name] = item
    else:
        raise Wrong(f"{key} holds a {type(value).__name__}")


def _collect_text(text: str, key: str, root: Path, found: Input) -> None:
    if key not in ("hex", "text", "ascii") and PATH.fullmatch(text):
        for path in _expanded(text):
            file = (root / path).resolve()
            if not file.is_relative_to(root.resolve()) or not file.is_file():
                raise Wrong(f"no file {path} under {root}")
            found.parts.append(Part(file.read_bytes(), file.name))
    elif key not in ("text", "ascii") and HEX.fullmatch(text.strip()):
        found.parts.append(Part(bytes.fromhex(re.sub(r"0x|[\s:]", "", text))))
    elif key == "hex" and text:
        raise Wrong(f"no hex: {text[:40]!r}")
    else:
        found.parts.append(Part(text.encode()))
        found.text = True


def _expanded(path: str) -> list[str]:
    """``a_{B4,B5}.tif`` stands for two files."""
    braces = BRACES.search(path)
    if braces is None:
        return [path]
    return [path.replace(braces.group(), choice, 1) for choice in braces.group(1).split(",")]


# --- judging ----------------------------------------------------------------------------------------


def judge(vector: Mapping[str, Any], codec: Codec, root: Path) -> None:
    """Raise ``Wrong`` unless the codec gives what the vector expects."""
    expected = vector.get("expected")
    if isinstance(expected, list):
        expected = {"frames": expected}
    if not isinstance(expected, dict):
        raise Wrong("no 'expected' in it")
    wanted = {key: value for key, value in expected.items() if key not in IGNORED}
    corrupt = vector.get("kind") in ("corrupt", "damaged")
    if not wanted and not corrupt:
        raise Wrong("nothing comparable in 'expected'")
    given = input_of(vector, root)
    sent = "tx" in (vector.get("dir"), vector.get("direction"))
    if sent and not corrupt and _encodes(codec, wanted, given.data):
        return
    if isinstance(codec, GivenCodec):
        frames = codec.frames_given(given.parts, {**expected, **given.context})
    else:
        frames = codec.frames(given.data)
    relative = RELATIVE_OF.get(vector["device"], RELATIVE)
    if corrupt or tells_damage(wanted):
        judge_damaged(wanted, frames, relative, strict=corrupt)
    else:
        judge_good(wanted, frames, relative)


def _encodes(codec: Codec, wanted: Mapping[str, Any], data: bytes) -> bool:
    try:
        return codec.encode(wanted) == data
    except (KeyError, TypeError, ValueError):  # not all that this frame needs stands in the vector
        return False


def tells_damage(wanted: Mapping[str, Any]) -> bool:
    return isinstance(wanted.get("error"), str) or any(
        value is False and (key.endswith("_ok") or key == "complete") for key, value in wanted.items()
    )


def judge_damaged(
    wanted: Mapping[str, Any], frames: Sequence[Frame], relative: float, *, strict: bool
) -> None:
    if not frames:
        return
    # Some sheets want a line with bad fields told with the good ones that it has.
    may_tell = not strict or ("values" in wanted and "bad_fields" in wanted)
    if may_tell and len(frames) == 1 and difference(wanted, frames[0], relative) is None:
        return
    raise Wrong(f"damaged, but gave {len(frames)} good frame(s): {_short(frames[0])}")


def judge_good(wanted: Mapping[str, Any], frames: Sequence[Frame], relative: float) -> None:
    for key in STREAMS:
        if isinstance(wanted.get(key), list) and not (len(frames) == 1 and key in frames[0]):
            judge_stream(wanted[key], frames, relative)
            return
    if len(frames) != 1:
        raise Wrong(f"expected one good frame, got {len(frames)}")
    found = difference(wanted, frames[0], relative)
    if found is not None:
        raise Wrong(found)


def judge_stream(wanted: Sequence[Any], frames: Sequence[Frame], relative: float) -> None:
    if len(frames) != len(wanted):
        raise Wrong(f"expected {len(wanted)} good frames, got {len(frames)}")
    for index, (one, frame) in enumerate(zip(wanted, frames, strict=True)):
        if isinstance(one, str):  # the sheet names a frame by one of its values, such as its payload
            found = None if one in frame.values() else f"no value {one!r} in {_short(frame)}"
        else:
            found = difference(one, frame, relative)
        if found is not None:
            raise Wrong(f"frame {index}: {found}")


def difference(wanted: Any, got: Any, relative: float, where: str = "") -> str | None:
    """The first place where ``got`` lacks or differs from ``wanted``; extra keys are fine."""
    if isinstance(wanted, dict) and isinstance(got, Mapping):
        for key, value in wanted.items():
            if key in IGNORED:
                continue
            if key not in got:
                return f"{where}{key}: missing"
            found = difference(value, got[key], relative, f"{where}{key}.")
            if found is not None:
                return found
        return None
    if isinstance(wanted, list) and isinstance(got, Sequence) and not isinstance(got, str):
        if len(wanted) != len(got):
            return f"{where.rstrip('.')}: expected {len(wanted)} items, got {len(got)}"
        pairs = enumerate(zip(wanted, got, strict=True))
        return next(
            (d for i, (w, g) in pairs if (d := difference(w, g, relative, f"{where}{i}.")) is not None), None
        )
    return (
        None
        if equal(wanted, got, relative)
        else f"{where.rstrip('.')}: expected {wanted!r}, got {_short(got)}"
    )


def equal(wanted: Any, got: Any, relative: float) -> bool:
    numbers = isinstance(wanted, int | float) and isinstance(got, int | float)
    if numbers and isinstance(wanted, float):
        return math.isclose(wanted, got, rel_tol=relative, abs_tol=1e-9)
    return type(wanted) is type(got) and wanted == got if not numbers else wanted == got


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


# --- running ----------------------------------------------------------------------------------------


def codecs() -> dict[str, Codec]:
    """Every codec of the installed drivers, by sheet device."""
    found: dict[str, Codec] = {}
    for name in known():
        try:
            found.update(load(name).codecs)
        except (MissingExtra, ImportError, AttributeError) as error:
            print(f"driver {name} left out: {error}", file=sys.stderr)
    return found


def codec_for(device: str, by_device: Mapping[str, Codec]) -> Codec | None:
    if device in by_device:
        return by_device[device]
    families = (name for name in by_device if name.endswith(".*") and device.startswith(name[:-1]))
    return next((by_device[name] for name in families), None)


def run(vector: Mapping[str, Any], by_device: Mapping[str, Codec], root: Path) -> Result:
    device, identity = vector["device"], str(vector.get("id", "?"))
    codec = codec_for(device, by_device)
    if codec is None:
        return Result(device, identity, "unsupported")
    try:
        judge(vector, codec, root)
    except Wrong as error:
        return Result(device, identity, "failed", str(error))
    except Exception as error:  # noqa: BLE001  # a codec that raises is the finding, not our crash
        return Result(device, identity, "failed", f"raised {type(error).__name__}: {error}")
    return Result(device, identity, "passed")


def report(results: Sequence[Result], *, verbose: bool, say: Callable[[str], None] = print) -> None:
    for result in results:
        if verbose or result.outcome == "failed":
            print(f"{result.id}: {result.outcome}: {result.reason}".rstrip(": "), file=sys.stderr)
    for device in sorted({result.device for result in results}):
        say(f"{device}: {_counts(r for r in results if r.device == device)}")
    say(_counts(results))


def _counts(results: Iterator[Result] | Sequence[Result]) -> str:
    counts = Counter(result.outcome for result in results)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "unsupported"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Hold the drivers against protocol vectors.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--root", type=Path, default=SHARED, help="where paths in vectors begin (../shared)")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell every vector, not only failed ones"
    )
    options = parser.parse_args(arguments)
    try:
        vectors = [vector for file in options.files for vector in read_vectors(file)]
    except BadFile as error:
        print(f"run_vectors: {error}", file=sys.stderr)
        return 2
    by_device = codecs()
    results = [run(vector, by_device, options.root) for vector in vectors]
    report(results, verbose=options.verbose)
    return 1 if any(result.outcome == "failed" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())

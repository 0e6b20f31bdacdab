"""The disk of the spool: is what it says is safe safe, how long does that take, is there room."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trisense.edge.doctor.model import Finding, Patient, Verdict

__all__ = ["check_file_system", "check_fsync", "check_room"]

WRITES: Final = 200
WRITES_S: Final = 2.0
"""As many writes, or as long as that: what wears a card less than a minute of the box at work."""
PAGE_BYTES: Final = 4096
FAST_MS: Final = 0.05
FAST_CARD_MS: Final = 0.2
"""Faster than flash can be written, on a disk with a controller of its own and on an SD card or eMMC."""
WAL_BYTES: Final = 4 << 20
"""What lies beside the spool's file, about."""
VOLATILE: Final = {"tmpfs", "ramfs", "overlay", "squashfs"}
FOREIGN: Final = {"vfat", "exfat", "ntfs", "ntfs3", "fuseblk", "nfs", "nfs4", "cifs", "smb3", "9p", "fuse"}


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a folder lies."""

    point: str
    kind: str
    options: frozenset[str]
    device: str
    """Major and minor number, ``179:2``."""


def check_file_system(patient: Patient) -> Iterator[Finding]:
    """What kind it is, and how it is mounted."""
    folder = patient.config.spool.path.parent
    if not folder.is_dir():
        yield Finding("spool folder", Verdict.BAD, f"{folder} is not there", f"mkdir -p {folder}")
        return
    if not os.access(folder, os.W_OK):
        yield Finding("spool folder", Verdict.BAD, f"{folder} cannot be written", "give it to the box's user")
        return
    mount = mount_of(folder, patient.root)
    if mount is None:
        yield Finding("file system", Verdict.WARN, "cannot tell: no mountinfo", "run it as root")
        return
    measured = f"{folder} lies on {mount.kind}, mounted at {mount.point}"
    values = {"kind": mount.kind, "mounted_at": mount.point}
    if mount.kind in VOLATILE:
        advice = "put the spool on a disk: this file system forgets everything when the power goes"
        yield Finding("file system", Verdict.BAD, measured, advice, values)
    elif mount.options & {"nobarrier", "barrier=0"}:
        advice = "mount it with barriers: without them a power cut takes what fsync promised"
        yield Finding("file system", Verdict.BAD, measured + " without barriers", advice, values)
    elif mount.kind.partition(".")[0] in FOREIGN:
        advice = "use ext4 or f2fs on a local disk: this one has no journal, or another machine's word for it"
        yield Finding("file system", Verdict.WARN, measured, advice, values)
    elif "noatime" not in mount.options:
        advice = "mount it with noatime to spare the card a write for each file read (/etc/fstab)"
        yield Finding("file system", Verdict.OK, measured, advice, values)
    else:
        yield Finding("file system", Verdict.OK, measured, values=values)


def check_fsync(patient: Patient) -> Iterator[Finding]:
    """How long a page takes to be safe, which is what every commit waits for."""
    spool = patient.config.spool
    folder = spool.path.parent
    if not os.access(folder, os.W_OK):
        return  # told already
    try:
        times_ms = sorted(_sync_times_ms(folder))
    except OSError as error:
        advice = "a card that refuses to write is dead or full: replace it, or make room"
        yield Finding("fsync", Verdict.BAD, f"cannot write and sync in {folder}: {error}", advice)
        return
    p50_ms, p99_ms = times_ms[len(times_ms) // 2], times_ms[int(len(times_ms) * 0.99)]
    measured = f"4 KiB written and synced: p50 {p50_ms:.2f} ms, p99 {p99_ms:.1f} ms, {len(times_ms)} times"
    values = {"p50_ms": round(p50_ms, 3), "p99_ms": round(p99_ms, 3), "writes": len(times_ms)}
    mount = mount_of(folder, patient.root)
    fast_ms = FAST_CARD_MS if mount is not None and _is_card(mount, patient.root) else FAST_MS
    if p50_ms < fast_ms:
        advice = (
            "faster than flash can be: card, controller or hypervisor say safe too early. Unless their cache"
            " survives a power cut, one can take more than the last commit: use another disk"
        )
        yield Finding("fsync", Verdict.WARN, measured, advice, values)
    elif p99_ms > spool.commit_s * 1000:
        advice = (
            f"slower than [spool] commit_s = {spool.commit_s:g}: samples wait longer in memory than promised."
            f" Replace the card, or set commit_s = {p99_ms / 500:.0f} and so accept to lose that much"
        )
        yield Finding("fsync", Verdict.BAD, measured, advice, values)
    elif p99_ms > spool.commit_s * 500:
        advice = (
            f"the disk alone takes half of [spool] commit_s = {spool.commit_s:g}: the card ages or is bad"
        )
        yield Finding("fsync", Verdict.WARN, measured, advice, values)
    else:
        yield Finding("fsync", Verdict.OK, measured, values=values)


def check_room(patient: Patient) -> Iterator[Finding]:
    """Whether the spool can grow to its cap."""
    spool = patient.config.spool
    try:
        stat = os.statvfs(spool.path.parent)
    except OSError:
        return  # told already
    free_bytes = stat.f_bavail * stat.f_frsize
    own_bytes = sum(_size_bytes(file) for file in spool.path.parent.glob(spool.path.name + "*"))
    wanted_bytes = spool.max_bytes + spool.ballast_bytes + WAL_BYTES
    measured = (
        f"{_mib(free_bytes)} free, the spool has {_mib(own_bytes)};"
        f" cap and ballast want {_mib(wanted_bytes)} together"
    )
    values = {"free_bytes": free_bytes, "spool_bytes": own_bytes, "wanted_bytes": wanted_bytes}
    room_bytes = free_bytes + own_bytes
    if room_bytes >= wanted_bytes:
        yield Finding("room", Verdict.OK, measured, values=values)
        return
    cap_bytes = max(1 << 20, room_bytes - spool.ballast_bytes - WAL_BYTES)
    advice = (
        f"the disk is full before the cap: make room, or set [spool] max_bytes = {cap_bytes >> 20 << 20},"
        " so that the box drops by its policy and not for want of room"
    )
    verdict = Verdict.BAD if room_bytes < spool.ballast_bytes + WAL_BYTES + (1 << 20) else Verdict.WARN
    yield Finding("room", verdict, measured, advice, values)


def mount_of(folder: Path, root: Path = Path("/")) -> Mount | None:
    """The mount that holds ``folder``, as the kernel tells it."""
    where = str(folder.resolve())
    best: Mount | None = None
    try:
        lines = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, more = before.split(), after.split()
        # The kernel writes a space in a path as \040.
        point = fields[4].encode("latin-1", "replace").decode("unicode_escape")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best.point)):
            options = frozenset((fields[5] + "," + more[2]).split(","))
            best = Mount(point, more[0], options, fields[2])
    return best


def _is_card(mount: Mount, root: Path) -> bool:
    return (root / "sys/dev/block" / mount.device).resolve().name.startswith("mmcblk")


def _sync_times_ms(folder: Path) -> Iterator[float]:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", buffering=0) as file:
        until_s = time.monotonic() + WRITES_S
        for _ in range(WRITES):
            page = os.urandom(PAGE_BYTES)  # a controller may compress, or know a page of zeros
            began_s = time.perf_counter()
            file.write(page)
            os.fsync(file.fileno())
            yield (time.perf_counter() - began_s) * 1000
            if time.monotonic() > until_s:
                return


def _size_bytes(file: Path) -> int:
    try:
        return file.stat().st_blocks * 512
    except OSError:
        return 0


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.0f} MiB"

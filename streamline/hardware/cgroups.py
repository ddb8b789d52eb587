"""The memory that Linux control groups leave a process: what containers, Spaces and systemd allow.

A process is in a tree of groups, and each of them up to the root can have a limit of its own. Version 1 has a
hierarchy for memory alone, version 2 has one for everything; a machine may mount both.
Source: docs.kernel.org, admin-guide/cgroup-v1/memory and admin-guide/cgroup-v2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Limit:
    """One group's limit. used_bytes: held by all of its processes, page cache that the kernel gives back left out."""

    limit_bytes: int
    used_bytes: int
    source: str

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes)


def read_limits(process: Path = Path("/proc/self")) -> tuple[Limit, ...]:
    """Return every limit on a process's memory, its own group's first; none where there are no control groups.

    process: its folder in /proc, whose `cgroup` says which group it is in and `mountinfo` where groups are.
    """
    limits = []
    for version, folder, root in _hierarchies(_read(process / "cgroup"), _read(process / "mountinfo")):
        for group in (folder, *folder.parents):
            limits += _limits_of_group(version, group)
            if group == root:
                break
    return tuple(limits)


def _hierarchies(groups: str, mounts: str) -> list[tuple[int, Path, Path]]:
    """(version, folder of the process's group, folder of the topmost group in sight) of each that counts memory."""
    paths = {}
    for line in groups.splitlines():  # "4:memory:/docker/abc" in version 1, "0::/docker/abc" in version 2
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            paths[1] = path
        elif number == "0" and not controllers:
            paths[2] = path

    found = []
    for line in mounts.splitlines():  # "35 31 0:32 ROOT FOLDER options [optional ...] - TYPE source options"
        left, _, right = line.partition(" - ")
        fields, (kind, *options) = left.split(), right.split() or [""]
        is_memory = kind == "cgroup" and "memory" in options[-1].split(",")
        version = 2 if kind == "cgroup2" else 1 if is_memory else None
        if version in paths and len(fields) > 4:
            folder = Path(_unescape(fields[4]))
            found.append((version, folder / _below(paths[version], _unescape(fields[3])), folder))
    return found


def _below(path: str, root: str) -> PurePosixPath:
    """A group's path as seen from a mount whose own root is the group `root`; inside a container both are long."""
    try:
        inner = PurePosixPath(path).relative_to(root)
    except ValueError:
        inner = PurePosixPath(path.lstrip("/"))
    return PurePosixPath() if ".." in inner.parts else inner  # outside of what this namespace can see


def _limits_of_group(version: int, group: Path) -> list[Limit]:
    if version == 2:
        # Above memory.high the kernel does not kill but stalls a process until it is of no use.
        names, usage, prefix = ("memory.max", "memory.high"), "memory.current", ""
    else:
        names, usage, prefix = ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_"
    used = _read(group / usage).strip()
    if not used.isdecimal():
        return []
    given_back = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
    held = max(0, int(used) - sum(map(int, given_back)))
    limits = {name: _read(group / name).strip() for name in names}
    return [
        Limit(int(limit), held, f"cgroup v{version} {name} of {group}")
        for name, limit in limits.items()
        if limit.isdecimal()  # "max" is no limit
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # a controller that is switched off, a group that is gone, or no Linux
        return ""


def _unescape(field: str) -> str:
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), field)

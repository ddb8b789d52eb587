"""Control groups of every layout, as files under a temporary folder, and those the tests run in."""

import os

import pytest

from streamline.hardware.cgroups import Limit, read_limits
from streamline.hardware.detection import Memory, cpu_device

GIB = 2**30
MIB = 2**20


def process(tmp_path, groups, *mounts):
    """A folder as /proc/self: its groups, and mounts as (root, folder, type, options)."""
    folder = tmp_path / "proc"
    folder.mkdir()
    (folder / "cgroup").write_text(groups)
    lines = ["22 28 0:20 / /proc rw,nosuid shared:12 - proc proc rw"]
    for number, (root, mounted, kind, options) in enumerate(mounts):
        place = str(mounted).replace(" ", "\\040")
        lines.append(f"{30 + number} 24 0:{27 + number} {root} {place} rw,nosuid shared:9 - {kind} {kind} {options}")
    (folder / "mountinfo").write_text("\n".join(lines) + "\n")
    return folder


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_version_2_limits_count_up_to_the_root(tmp_path):
    root = tmp_path / "sys fs" / "cgroup"  # a space is escaped in mountinfo
    group(root, memory__stat="anon 1")  # the topmost group of all has neither limit nor usage
    group(root / "user", memory__max=16 * GIB, memory__high="max", memory__current=9 * GIB, memory__stat="")
    stat = f"anon {GIB}\ninactive_file {GIB}\nactive_file {2 * GIB}\nunevictable 0"
    group(root / "user" / "job", memory__max="max", memory__high=12 * GIB, memory__current=8 * GIB, memory__stat=stat)
    group(root / "user" / "job" / "leaf", memory__max="max", memory__current=GIB, memory__stat="")
    limits = read_limits(process(tmp_path, "0::/user/job/leaf\n", ("/", root, "cgroup2", "rw")))
    assert [(limit.limit_bytes, limit.used_bytes) for limit in limits] == [(12 * GIB, 5 * GIB), (16 * GIB, 9 * GIB)]
    assert limits[0].source == f"cgroup v2 memory.high of {root / 'user' / 'job'}"


def test_version_1_inside_docker(tmp_path):
    """Without a namespace of its own, a container sees its group mounted as the root, and its path in full."""
    root = tmp_path / "memory"
    stat = f"cache 5\ninactive_file 5\ntotal_inactive_file {MIB}\ntotal_active_file {MIB}"
    files = {"memory__usage_in_bytes": 100 * MIB, "memory__stat": stat, "memory__limit_in_bytes": 512 * MIB}
    group(root, **files)
    groups = "12:cpuset:/docker/abc\n5:memory:/docker/abc\n1:name=systemd:/docker/abc\n"
    mounts = [("/docker/abc", tmp_path / "cpu", "cgroup", "rw,cpu"), ("/docker/abc", root, "cgroup", "rw,memory")]
    assert read_limits(process(tmp_path, groups, *mounts)) == (
        Limit(512 * MIB, 98 * MIB, f"cgroup v1 memory.limit_in_bytes of {root}"),
    )


def test_both_versions_at_once(tmp_path):
    """A hybrid machine mounts version 2 without a memory controller."""
    group(tmp_path / "unified")
    none = {"memory__usage_in_bytes": GIB, "memory__stat": "", "memory__limit_in_bytes": 2**63 - 4096}
    group(tmp_path / "memory", **none)
    group(tmp_path / "memory" / "a", **none | {"memory__limit_in_bytes": 2 * GIB})
    mounts = [("/", tmp_path / "memory", "cgroup", "rw,memory"), ("/", tmp_path / "unified", "cgroup2", "rw")]
    limits = read_limits(process(tmp_path, "4:memory:/a\n0::/a\n", *mounts))
    assert [limit.limit_bytes for limit in limits] == [2 * GIB, 2**63 - 4096]
    device = cpu_device("CPU", Memory(8 * GIB, 6 * GIB, GIB), limits)
    assert (device.total_bytes, device.free_bytes) == (2 * GIB, GIB)


@pytest.mark.parametrize("path", ["/../../elsewhere", "/gone", "/"])
def test_a_group_out_of_sight_leaves_those_in_sight(tmp_path, path):
    root = tmp_path / "cgroup"
    group(root, memory__max=GIB, memory__current=5, memory__stat="")
    limits = read_limits(process(tmp_path, f"0::{path}\n", ("/", root, "cgroup2", "rw")))
    assert [limit.limit_bytes for limit in limits] == [GIB]


def test_no_control_groups_are_no_limits(tmp_path):
    assert read_limits(tmp_path / "none") == ()
    assert read_limits(process(tmp_path, "nonsense\n::\n", ("/", tmp_path, "cgroup2", "rw"))) == ()


@pytest.mark.skipif(not os.path.exists("/proc/self/cgroup"), reason="no control groups")
def test_this_process_is_within_its_limits():
    assert all(limit.limit_bytes > 0 and limit.source for limit in read_limits())

"""Killed at any line, or on a full disk, no writer leaves anything broken: old files, new files, nothing else."""

import logging
import os
import sys

import pytest
from PIL import Image, ImageChops

import streamline
import ui.gallery
from streamline import Source, cache, files
from streamline.files import atomic_write
from streamline.output import receipt, receipt_files, video
from ui.gallery import Gallery
from ui.orders import Order, Part, Settings
from ui.service import Service

crashing = pytest.importorskip("crashing", reason="fork and limits of files are Unix's")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork and limits of files are Unix's")

JOB = streamline.Job(height=64, width=64, num_frames=3, num_inference_steps=2, prompt="a cat")
SETTINGS = Settings("tiny-animatediff", Source("tiny-animatediff"), JOB, budget_bytes=2**30)
PLAN = streamline.Plan.uniform(2)
ORDER = Order("generate", SETTINGS, (Part("streamlined", PLAN),), Image.new("RGB", (64, 64), "red"))
NOISE = Image.effect_noise((64, 64), 60).convert("RGB")
FRAMES = tuple(ImageChops.offset(NOISE, index) for index in range(3))
RESULT = streamline.Result(FRAMES, JOB, PLAN, "cpu", 1.0, (0.5, 0.5), 0.1, 2**20, 2**10)
MEASURED = streamline.Measured(2**20, 2**10, 1.0, (0.5, 0.5), 0.1)
RECEIPT = streamline.Receipt(
    "tiny-animatediff", JOB, PLAN, "streamlined", "a processor", "float32", (("python", "3"),), MEASURED, "2026-01-01"
)
WRITERS = {module.__file__ for module in (ui.gallery, cache, files, video, receipt_files, receipt)}
STRIDE = 37  # lines between two kills that are tried


def kills(work, files=WRITERS, most=4000):
    """How a process ended that was killed at every so many-th line, until one is done first."""
    for line in range(1, most, STRIDE):
        status = crashing.killed_at(line, files, work)
        assert status in (crashing.KILLED, crashing.DONE)
        yield line
        if status == crashing.DONE:
            return
    raise AssertionError("it was never done")


def test_a_killed_gallery_holds_whole_videos_only(tmp_path, caplog):
    Gallery(tmp_path).add("ann", ORDER, RESULT, RECEIPT)
    before, begun = 1, 0
    for _ in kills(lambda: Gallery(tmp_path).add("ann", ORDER, RESULT, RECEIPT)):
        left = list(tmp_path.glob("*/.*"))
        with caplog.at_level(logging.WARNING):
            gallery = Gallery(tmp_path)
        begun += len(left)
        assert not list(tmp_path.glob("*/.*")) and caplog.text.count("not written to its end") == begun
        runs = gallery.runs("ann")
        assert len(runs) in (before, before + 1)
        before = len(runs)
        for run in runs:
            assert streamline.read_receipt(run.video) == RECEIPT and len(run.frames()) == 3
            assert run.picture is not None and Image.open(run.thumbnail).size == (64, 64)
    assert begun > 2 and before > 1


@pytest.mark.parametrize("suffix", [".mp4", ".zip"])
def test_a_killed_export_leaves_the_old_file_or_the_new_one(tmp_path, suffix, caplog):
    path, left = tmp_path / f"out{suffix}", []
    streamline.export(FRAMES, path, 8, RECEIPT)
    for _ in kills(lambda: streamline.export(FRAMES[:2], path, 8, RECEIPT)):
        assert streamline.read_receipt(path) == RECEIPT
        assert [entry.name for entry in tmp_path.iterdir() if not entry.name.startswith(".")] == [path.name]
        left += [entry.name for entry in tmp_path.iterdir() if entry != path and entry.name not in left]
    streamline.export(FRAMES, path, 8, RECEIPT)  # the children cleared what they found, and this what the last one left
    assert left and [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_next_export_clears_what_a_killed_one_left_and_says_so(tmp_path, caplog):
    path, others = tmp_path / "out.zip", [tmp_path / ".hidden", tmp_path / ".notes.draft", tmp_path / ".out-1"]
    for other in others:
        other.mkdir()
    line = next(
        line for line in range(1, 200)
        if crashing.killed_at(line, WRITERS, lambda: streamline.export(FRAMES, path, 8)) == crashing.KILLED
        and len(list(tmp_path.iterdir())) > len(others)
    )  # fmt: skip
    assert line > 1 and not path.exists()
    (left,) = set(tmp_path.iterdir()) - set(others)
    streamline.export(FRAMES, path, 8)
    assert caplog.messages == [f"what was not written to its end is removed: {left.name}"]
    assert set(tmp_path.iterdir()) == {path, *others}


def test_what_somebody_else_is_writing_is_left_alone(tmp_path):
    """Of a process that lives, or of another machine, unless nothing has happened for a day."""
    ours = streamline.temporary_path(tmp_path / "a")
    theirs = tmp_path / f".b.{'0' * 6}-{2**22 + 1}-{'0' * 8}.draft"
    gone = tmp_path / theirs.name.replace("0" * 6, files._machine(), 1)
    for temporary in (ours, theirs, gone):
        temporary.mkdir()
    streamline.clear_temporary_files(tmp_path)
    assert set(tmp_path.iterdir()) == {ours, theirs}
    for temporary in (ours, theirs):
        os.utime(temporary, (1e9, 1e9))  # long before this process began, so its number was another's then
    streamline.clear_temporary_files(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_cache_is_read_as_before(tmp_path):
    path, old, new = tmp_path / "known.json", {"a": 1}, {"a": list(range(1000))}
    cache.write_json(path, old)
    for line in range(1, 60):
        status = crashing.killed_at(line, {cache.__file__, files.__file__}, lambda: cache.write_json(path, new))
        assert cache.read_json(path) in ((old, new) if status == crashing.KILLED else (new,))
        cache.write_json(path, old)
    assert status == crashing.DONE and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"\x00{", b'{"observations": 3, "memory": ["x"]}'])
def test_broken_caches_are_nothing_known(tmp_path, content, monkeypatch):
    """Whatever stands in the files that the cost tables, rates and observations are kept in."""
    monkeypatch.setenv("STREAMLINE_CACHE", str(tmp_path))
    pipe = streamline.load("tiny-animatediff", device="cpu")
    job = streamline.Job.for_model(pipe, prompt="a cat", num_inference_steps=2)
    plan = streamline.tune(pipe, job, "1GiB", device="cpu")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(content)
    again = streamline.tune(pipe, job, "1GiB", device="cpu")
    assert again.guidance in ("batched", "sequential") and again.budget_bytes == plan.budget_bytes


@pytest.mark.parametrize("spoil", [b"", b"{", b"[]", b'{"made": 1}'])
def test_a_broken_run_of_the_gallery_is_left_out(tmp_path, spoil):
    gallery = Gallery(tmp_path)
    good, bad, empty = (gallery.add("ann", ORDER, RESULT, RECEIPT) for _ in range(3))
    (gallery.get("ann", bad).folder / "run.json").write_bytes(spoil)
    gallery.get("ann", empty).video.unlink()
    assert [run.name for run in Gallery(tmp_path).runs("ann")] == [good]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".zip"])
def test_a_full_disk_leaves_the_old_file_and_is_a_sentence(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    streamline.export(FRAMES[:1], path, 8)
    content = path.read_bytes()

    def export():
        with pytest.raises(streamline.InputError, match=r"^\S.* cannot be written: [^\n]+\.$"):
            streamline.export(FRAMES * 8, path, 8, RECEIPT)
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    assert crashing.with_largest_file(2000, export) == crashing.DONE
    assert path.read_bytes() == content


def test_a_full_disk_stops_neither_cache_nor_picture(tmp_path):
    def write():
        cache.write_json(tmp_path / "a.json", {"a": "x" * 10_000})
        with (
            pytest.raises(streamline.InputError, match="cannot be written"),
            atomic_write(tmp_path / "a.png") as partial,
        ):
            NOISE.save(partial)

    assert crashing.with_largest_file(2000, write) == crashing.DONE
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_on_a_full_disk_says_what_was_lost_and_goes_on(tmp_path):
    """The order fails in a sentence, nothing half written stays, and the next one is kept once there is room."""
    full = {"disk": True}

    class Filling(Gallery):
        def _write(self, temporary, *rest):
            super()._write(temporary, *rest)
            if full["disk"]:
                raise OSError(28, "No space left on device")

    from ui.events import PartDone, PartStarted

    service = Service(lambda order, stop: iter([PartStarted(0, 1), PartDone(0, RESULT, RECEIPT)]), Filling(tmp_path))
    *_, view = service.follow("ann", service.submit("ann", ORDER))
    assert view.status == "failed"
    assert view.trouble == "The video was made but could not be kept: No space left on device."
    assert list(tmp_path.glob("*/*")) == [] and list(tmp_path.glob("*/.*")) == []
    full["disk"] = False
    *_, view = service.follow("ann", service.submit("ann", ORDER))
    assert view.status == "done" and len(service.gallery.runs("ann")) == 1


def test_a_gallery_whose_files_cannot_grow_keeps_nothing_half(tmp_path):
    def add():
        with pytest.raises((OSError, streamline.InputError)):
            Gallery(tmp_path).add("ann", ORDER, RESULT, RECEIPT)

    assert crashing.with_largest_file(3000, add) == crashing.DONE
    assert list(tmp_path.glob("*/*")) == [] and list(tmp_path.glob("*/.*")) == []

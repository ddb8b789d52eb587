"""Videos play everywhere and show the frames that were made."""

import zipfile

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from streamline import InputError, contact_sheet, export
from streamline.output.metrics import largest_difference
from streamline.output.video import VIDEOS, enlarge


def clip(width=64, height=48, frames=5):
    """A bright square that moves right over a colour gradient."""
    y, x = np.mgrid[0:height, 0:width]
    background = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=-1)
    clip = np.repeat(background[None].astype(np.uint8), frames, axis=0)
    for index, frame in enumerate(clip):
        frame[10:20, 5 * index : 5 * index + 10] = (250, 20, 20)
    return [Image.fromarray(frame) for frame in clip]


@pytest.mark.parametrize(("width", "height"), [(64, 48), (33, 31), (512, 400)])
def test_an_exported_video_shows_its_frames(tmp_path, width, height):
    frames = clip(width, height)
    path = export(frames, tmp_path / "clip.mp4", fps=8)
    read = iio.imread(path, plugin="FFMPEG")
    details = iio.immeta(path, plugin="FFMPEG")
    assert details["codec"] == "h264" and details["pix_fmt"].startswith("yuv420p") and details["fps"] == 8
    assert len(read) == len(frames)
    factor = max(1, 384 // min(width, height))
    assert read.shape[1] == -(-height * factor // 2) * 2 and read.shape[2] == -(-width * factor // 2) * 2
    shown = read[:, : height * factor, : width * factor].astype(float)
    made = np.stack([np.asarray(frame).repeat(factor, 0).repeat(factor, 1) for frame in frames])
    assert 10 * np.log10(255**2 / np.mean((shown - made) ** 2)) > 30
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_webm_shows_the_frames_too(tmp_path):
    frames = clip(128, 96)
    path = export(frames, tmp_path / "clip.webm", fps=8)
    read, details = iio.imread(path, plugin="FFMPEG"), iio.immeta(path, plugin="FFMPEG")
    assert details["codec"] == "vp9" and details["fps"] == 8 and len(read) == len(frames)
    made = np.stack([np.asarray(enlarge(frame)) for frame in frames]).astype(float)
    assert 10 * np.log10(255**2 / np.mean((read - made) ** 2)) > 30


def test_a_gif_loops_and_lasts_as_long_as_the_video(tmp_path):
    frames = clip()
    with Image.open(export(frames, tmp_path / "clip.gif", fps=8)) as read:
        assert read.n_frames == len(frames) and read.info["loop"] == 0
        assert abs(read.info["duration"] - 1000 / 8) <= 10
        for index, frame in enumerate(frames):
            read.seek(index)
            difference = np.subtract(read.convert("RGB"), enlarge(frame), dtype=float)
            assert np.abs(difference).mean() < 8


def test_a_zip_holds_the_very_frames(tmp_path):
    frames = clip()
    with zipfile.ZipFile(export(frames, tmp_path / "clip.zip")) as archive:
        names = archive.namelist()
        assert names == sorted(names) and len(names) == len(frames)
        for name, frame in zip(names, frames, strict=True):
            assert (np.asarray(Image.open(archive.open(name))) == np.asarray(frame)).all()


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_a_lower_rate_is_a_larger_file(tmp_path, suffix):
    sizes = [export(clip(), tmp_path / f"{crf}{suffix}", crf=crf).stat().st_size for crf in (5, 30, 51)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    for crf in (-1, 52, 1.5, True, "16"):
        with pytest.raises(InputError, match="crf"):
            export(clip(), tmp_path / f"clip{suffix}", crf=crf)


@pytest.mark.parametrize("suffix", VIDEOS)
def test_a_failed_export_leaves_nothing_behind(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    path.write_text("the one before")

    class Broken(Image.Image):
        size = (64, 48)

        def convert(self, mode):
            raise RuntimeError("no pixels")

    with pytest.raises(RuntimeError, match="no pixels"):
        export([*clip(), Broken()], path)
    assert path.read_text() == "the one before"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_largest_difference_is_found_wherever_it_is():
    first, second = clip(), clip()
    assert largest_difference(first, second) == 0
    second[3].putpixel((7, 5), (0, 0, 255))
    expected = np.abs(np.subtract(first[3].getpixel((7, 5)), (0, 0, 255))).max()
    assert largest_difference(first, second) == expected


def test_frames_must_be_of_one_size(tmp_path):
    with pytest.raises(InputError, match="one size"):
        export([*clip(), *clip(32, 32)], tmp_path / "clip.mp4")


@pytest.mark.parametrize("name", ["clip.avi", "clip", "nowhere/clip.mp4"])
def test_paths_that_cannot_be_written_are_refused(tmp_path, name):
    with pytest.raises(InputError):
        export(clip(), tmp_path / name)


def test_a_contact_sheet_holds_every_frame():
    frames = [Image.new("RGB", (128, 128), (index * 20, 0, 0)) for index in range(10)]
    sheet = np.asarray(contact_sheet(frames, columns=4, gap=4))
    assert sheet.shape == (3 * 132 - 4, 4 * 132 - 4, 3)
    for index in range(10):
        assert tuple(sheet[index // 4 * 132 + 64, index % 4 * 132 + 64]) == (index * 20, 0, 0)
    assert tuple(sheet[2 * 132 + 64, 3 * 132 + 64]) == (255, 255, 255)

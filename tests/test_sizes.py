"""Sizes in words, and files that are kept between runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamline.cache import cache_folder, read_json, write_json
from streamline.errors import InputError
from streamline.sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GiB", 8 * 2**30),
        ("8 GiB", 8 * 2**30),
        (" 8gib ", 8 * 2**30),
        ("8G", 8 * 2**30),
        ("8GB", 8 * 10**9),
        ("4.5GiB", 9 * 2**29),
        ("6500MiB", 6500 * 2**20),
        ("512k", 512 * 2**10),
        ("700B", 700),
        ("1TiB", 2**40),
        ("1024TiB", 2**50),
        ("8589934592", 2**33),
        (8589934592, 2**33),
        (1, 1),
    ],
)
def test_a_size_in_words_is_a_number_of_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "size",
    [
        *("8 gigs", "8", "", "GiB", "-8GiB", "+8GiB", "0", "0GiB", "0.1B", "nan", "inf", "1e9", "8GiB/s", "8,5GiB"),
        *("8  GiB", "1025TiB", "9" * 5000, "٨GiB", "8IB"),
        *(0, -1, 2**50 + 1, 1.5, 8e9, float("nan"), True, None, [8], b"8GiB"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(size):
    with pytest.raises(InputError) as error:
        parse_bytes(size)
    sentence = str(error.value)
    assert sentence.startswith("A size of memory") and sentence.endswith(".") and len(sentence) < 200


@given(st.integers(1, 2**50))
def test_what_is_written_is_read_back_to_its_decimals(count):
    assert parse_bytes(str(count) + "B") == count
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.051)


def test_sizes_for_people():
    assert [format_bytes(size) for size in (0, 512, 2**10, 37_000_000, 8 * 2**30, 2**40)] == [
        "0 B", "512 B", "1.0 KiB", "35.3 MiB", "8.0 GiB", "1.0 TiB",
    ]  # fmt: skip


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("STREAMLINE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("STREAMLINE_CACHE")
    assert cache_folder().is_absolute() and "streamline" in cache_folder().parts


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "file.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0", "[" * 100_000])
def test_a_damaged_file_is_no_file(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    assert read_json(path) is None
    path.write_bytes(b"\xff\xfe")
    assert read_json(path) is None


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    write_json(tmp_path / "file" / "file.json", {})
    assert "could not be kept" in caplog.text
    folder = tmp_path / "taken.json"
    folder.mkdir()
    write_json(folder, {})  # a temporary file is there by then, and is removed
    assert list(tmp_path.glob(".taken*")) == []

"""Rates are measured once, kept on disk, and measured again where what is kept cannot be used."""

import json
from dataclasses import replace

import pytest
import torch

from streamline import DeviceError, Rates, detect
from streamline.hardware.cards import emulate
from streamline.hardware.rates import measure_rates, rates_of

RATES = Rates(flops={"float32": 2e12, "float16": 8e12}, bandwidth=3e11, launch_seconds=5e-6, source="published")


@pytest.fixture(scope="module")
def cpu():
    return detect("cpu")


@pytest.fixture(scope="module")
def measured(cpu):
    return measure_rates(cpu)


def test_every_type_is_measured(measured):
    assert [name for name, _ in measured.flops] == ["bfloat16", "float16", "float32"]
    assert measured.source == "measured here"


def test_a_type_without_a_rate_is_as_slow_as_the_slowest():
    assert RATES.flops_of(torch.float16) == 8e12
    assert RATES.flops_of(torch.bfloat16) == RATES.flops_of(torch.float64) == 2e12


@pytest.fixture(scope="module")
def kept(cpu, tmp_path_factory):
    """A file as `rates_of` leaves it: its name and its text."""
    folder = tmp_path_factory.mktemp("kept")
    rates_of(cpu, folder)
    (path,) = folder.iterdir()
    return path.name, path.read_text()


def test_rates_are_kept_by_device_and_software(cpu, kept, tmp_path):
    name, text = kept
    (tmp_path / name).write_text(json.dumps(json.loads(text) | {"rates": RATES.to_dict()}))
    assert rates_of(cpu, tmp_path) == rates_of(replace(cpu, free_bytes=0), tmp_path) == RATES
    another = rates_of(replace(cpu, name="another"), tmp_path)
    assert another != RATES and len(list(tmp_path.iterdir())) == 2
    assert rates_of(replace(cpu, name="another"), tmp_path) == another


@pytest.mark.parametrize("damage", ["", '{"of": 1}', "rates", "figures"])
def test_damaged_rates_are_measured_again(cpu, kept, tmp_path, damage):
    name, text = kept
    data = json.loads(text)
    if damage == "rates":
        damage = json.dumps(data | {"rates": [1]})
    elif damage == "figures":
        damage = json.dumps(data | {"rates": data["rates"] | {"bandwidth": -1}})
    (tmp_path / name).write_text(damage)
    again = rates_of(cpu, tmp_path)
    assert again.source == "measured here"
    assert Rates.from_dict(json.loads((tmp_path / name).read_text())["rates"]) == again


def test_a_cache_that_cannot_be_written_is_done_without(cpu, tmp_path):
    (tmp_path / "file").write_text("")
    assert rates_of(cpu, tmp_path / "file").source == "measured here"


def test_rates_are_the_same_after_json(measured):
    for rates in (measured, RATES):
        assert Rates.from_dict(json.loads(json.dumps(rates.to_dict()))) == rates
        hash(rates)


@pytest.mark.parametrize(
    "change",
    [
        {"flops": {}},
        {"flops": 3},
        {"flops": {"float32": 0}},
        {"bandwidth": float("nan")},
        {"launch_seconds": "soon"},
        {"colour": "red"},
    ],
)
def test_rates_that_make_no_sense_are_refused(change):
    with pytest.raises(DeviceError):
        Rates.from_dict(RATES.to_dict() | change)


def test_what_is_not_here_cannot_be_measured(tmp_path):
    with pytest.raises(DeviceError, match="emulated"):
        rates_of(emulate("8GiB")[0], tmp_path)

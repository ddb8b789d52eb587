"""Cards that are not here, by name and by size."""

import pytest

from streamline.errors import InputError
from streamline.hardware.cards import CARDS, emulate
from streamline.hardware.detection import default_budget
from streamline.sizes import parse_bytes

GIB = 2**30


@pytest.mark.parametrize("gibibytes", [4, 6, 8, 10, 12, 16, 24, 48, 80])
def test_every_common_size_has_a_card_of_its_own(gibibytes):
    device, rates = emulate(f"{gibibytes}GiB")
    card = next(card for card in CARDS if card.memory_bytes == gibibytes * GIB)
    assert device.emulated and device.name == card.name
    assert device.total_bytes == device.free_bytes == gibibytes * GIB
    assert 0 < default_budget(device) < device.total_bytes
    assert rates == card.rates and {name for name, _ in rates.flops} == set(device.dtypes)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_has_a_name_and_attainable_rates(card):
    device, rates = emulate(card.name)
    assert (device.name, device.total_bytes) == (card.name, card.memory_bytes)
    assert emulate(f"nvidia geforce {card.name.lower().replace(' ', '')}")[0] == device
    assert rates.bandwidth < card.bandwidth_bytes_per_second and rates.source == "published"
    assert all(rate < dict(card.flops)[name] for name, rate in rates.flops)


def test_a_size_between_has_the_nearest_cards_rates():
    device, rates = emulate("7.5GiB")
    assert device.total_bytes == parse_bytes("7.5GiB") and device.name == "RTX 4060 with 7.5 GiB"
    assert rates == emulate("RTX 4060")[1]
    assert emulate("4090")[0].name == "RTX 4090" and emulate("h100")[0].name == "H100 80GB"
    assert emulate("40GB")[0].total_bytes == 40 * 10**9


@pytest.mark.parametrize("text", ["8 gigs", "-8GiB", "", "8", "0GiB", "RTX 9090", "rtx", "a100", "256MiB", "2000TiB"])
def test_a_card_that_nobody_knows_is_one_sentence(text):
    with pytest.raises(InputError) as error:
        emulate(text)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)

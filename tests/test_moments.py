"""A GroupNorm applied slice by slice equals the GroupNorm of the whole."""

import pytest
import torch
from torch import nn

from streamline.families.layers.blocks import to_rows, to_video
from streamline.program.moments import measure


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("slices", [1, 2, 5, 99])
@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_slices_of_pixels_are_normalised_as_the_whole(dtype, tolerance, offset, slices, affine):
    """Far from zero, a sum of squares would lose every digit of float32; the moments here must not."""
    torch.manual_seed(slices)
    batch, frames, channels, height, width = 2, 3, 8, 5, 7
    norm = nn.GroupNorm(4, channels, affine=affine).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    images = (torch.randn(batch * frames, channels, height, width) + offset).to(dtype)
    expected = to_rows(norm(to_video(images.double().flatten(2).unsqueeze(3), batch)))
    norm = norm.to(dtype)

    applied = measure(norm, images, batch, slices)
    pixels = images.flatten(2).unsqueeze(3)
    parts = [to_rows(applied(to_video(part, batch))) for part in pixels.split(6, dim=2)]
    result = torch.cat(parts, dim=2)
    assert result.dtype == dtype
    magnitude = 1 + offset if dtype != torch.float16 else 1
    assert (result.double() - expected).abs().max() <= tolerance * magnitude * expected.abs().max()


def test_moments_of_each_slice_alone_would_be_wrong():
    """The shortcut that this module exists to avoid."""
    torch.manual_seed(0)
    norm, images = nn.GroupNorm(4, 8), torch.randn(6, 8, 5, 7)
    whole = measure(norm, images, 2, 1)(to_video(images.flatten(2).unsqueeze(3), 2))
    part = images[:, :, :2]
    alone = norm(to_video(part.flatten(2).unsqueeze(3), 2))
    assert (alone - whole[..., : alone.shape[3], :]).abs().max() > 0.1

"""Reading a clip of the world back from its pixels, by measurement and without a trained judge."""

from dataclasses import dataclass

import numpy as np

from streamline.lab.recipes import world

COVERED = 0.15
"""Difference in chroma from the background that tells a shape's pixel."""
MOVED, GREW, TURNED = 0.12, 1.5, 0.02
"""Least displacement (of the picture's side), growth in area (factor) and change of a shape's pixels
between neighbouring frames that count as motion."""


@dataclass(frozen=True)
class Reading:
    """What is seen in a clip; shape, colour and motion are empty where there is no shape to be seen."""

    shape: str
    colour: str
    background: str
    motion: str


def read(video: np.ndarray) -> Reading:
    """Read a clip (frames, size, size, 3) in [0, 1]."""
    ground = np.median(video[:, :4].reshape(-1, 3), axis=0)  # the wall, above most shapes
    background = _nearest(ground, world.BACKGROUNDS)
    masks = np.linalg.norm(_chroma(video - ground), axis=-1) > COVERED
    if not masks.any(axis=(1, 2)).all():
        return Reading("", "", background, "")
    hues = {name: _unit(_chroma(np.array(rgb))) for name, rgb in world.COLOURS.items()}
    colour = _nearest(_unit(_chroma(video[masks].mean(axis=0))), hues)
    centres = np.array([centre(mask) for mask in masks])
    areas = masks.mean(axis=(1, 2))
    shape = _shape(masks[areas.argmax()])
    return Reading(shape, colour, background, _motion(video, masks, centres, areas))


def centre(mask: np.ndarray) -> np.ndarray:
    """Return the centre of mass (x, y) of a mask (size, size), as fractions of its side."""
    y, x = np.nonzero(mask)
    return (np.array([x.mean(), y.mean()]) + 0.5) / len(mask)


def _motion(video: np.ndarray, masks: np.ndarray, centres: np.ndarray, areas: np.ndarray) -> str:
    path = centres[-1] - centres[0]
    climbed = np.abs(np.diff(centres[:, 1])).sum()
    if climbed > MOVED + 1.3 * abs(path[1]):
        return "bouncing"
    if np.abs(path).max() > MOVED:
        return max(world.HEADINGS, key=lambda name: float(np.dot(world.HEADINGS[name], path)))
    growth = areas[-1] / areas[0]
    if growth > GREW:
        return "growing"
    if growth < 1 / GREW:
        return "shrinking"
    change = np.abs(np.diff(video, axis=0)).mean(axis=-1)
    return "spinning" if change[masks[1:] | masks[:-1]].mean() > TURNED else "still"


def _shape(mask: np.ndarray) -> str:
    """Return the shape that overlaps a mask best when laid on its centre, at its size, at some tilt."""
    axis = (np.arange(len(mask)) + 0.5) / len(mask)
    x0, y0 = centre(mask)
    best = {}
    for shape in world.SHAPES:
        unit = np.linspace(-1.2, 1.2, 97)
        covered = (world.distance(shape, unit[None, :], unit[:, None]) < 0).mean() * 2.4**2
        radius = np.sqrt(mask.mean() / covered)
        for tilt in np.linspace(0, 2 * np.pi, 24, endpoint=False):
            x, y = (axis[None, :] - x0) / radius, (axis[:, None] - y0) / radius
            x, y = np.cos(tilt) * x + np.sin(tilt) * y, np.cos(tilt) * y - np.sin(tilt) * x
            drawn = world.distance(shape, x, y) < 0
            overlap = (drawn & mask).sum() / (drawn | mask).sum()
            best[shape] = max(best.get(shape, 0.0), overlap)
    return max(best, key=best.get)


def _chroma(rgb: np.ndarray) -> np.ndarray:
    """Return colours without their brightness."""
    return rgb - rgb.mean(axis=-1, keepdims=True)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def _nearest(value: np.ndarray, names: dict[str, np.ndarray]) -> str:
    return min(names, key=lambda name: float(np.linalg.norm(value - np.array(names[name]))))

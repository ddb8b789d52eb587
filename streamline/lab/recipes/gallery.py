"""Draw the pictures that the app and the README offer to start from: first frames of scenes of the world.

python -m streamline.lab.recipes.gallery
"""

import argparse
from pathlib import Path

import numpy as np

from streamline.lab.recipes import world
from streamline.lab.recipes.sampling import HELD_OUT, to_image

SIDE = 256
PICTURES = {  # shape: colour, background, motion that the picture tells
    "circle": ("red", "gray", "left"),
    "cross": ("cyan", "brown", "growing"),
    "star": ("yellow", "navy", "spinning"),
    "triangle": ("green", "white", "bouncing"),
}


def main() -> None:
    """Write a PNG for every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/examples"), help="folder")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for shape, wanted in PICTURES.items():
        scene = find(shape, *wanted)
        to_image(world.draw(scene, np.zeros(1), size=SIDE)[0]).save(out / f"{shape}.png", optimize=True)
        print(f"{shape}.png: first frame of {world.describe(scene)}")


def find(shape: str, colour: str, background: str, motion: str) -> world.Scene:
    """Return the first scene of these that nothing was trained on."""
    number = HELD_OUT
    while True:
        scene = world.image_scene(number)
        if (scene.shape, scene.colour, scene.background, scene.motion) == (shape, colour, background, motion):
            return scene
        number += 1


if __name__ == "__main__":
    main()

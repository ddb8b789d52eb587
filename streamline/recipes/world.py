"""A small world of moving shapes: unlimited clips, drawn from a seed, that come with labels and prompts.

A `Scene` says everything about a clip; `draw` turns it into pixels. Scenes are kept simple on purpose, so
that a model of a few million parameters can learn them in an hour: a moving shape crosses the middle of
the picture, and the first frame tells the motion (a shape on the right moves left, a small one grows, a
tilted one spins), which is what an image-to-video model has to go by.
"""

from dataclasses import dataclass

import numpy as np

SIZE = 64
FRAMES = 8
USUAL_MOTION_BUCKET = 127
"""Motion bucket, in the sense of Stable Video Diffusion, of a scene of pace 1; others in proportion."""

COLOURS = {
    "red": (0.90, 0.12, 0.12),
    "orange": (0.98, 0.52, 0.08),
    "yellow": (0.97, 0.90, 0.15),
    "green": (0.12, 0.72, 0.20),
    "cyan": (0.15, 0.85, 0.90),
    "blue": (0.15, 0.30, 0.95),
    "purple": (0.62, 0.18, 0.85),
}
BACKGROUNDS = {
    "black": (0.08, 0.08, 0.08),
    "white": (0.90, 0.90, 0.90),
    "gray": (0.50, 0.50, 0.50),
    "brown": (0.42, 0.28, 0.16),
    "navy": (0.10, 0.13, 0.36),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
MOTIONS = {
    "left": ("moving left", "going left", "sliding to the left"),
    "right": ("moving right", "going right", "sliding to the right"),
    "up": ("moving up", "going up", "rising"),
    "down": ("moving down", "going down", "falling"),
    "spinning": ("spinning", "rotating", "turning around"),
    "growing": ("growing", "getting bigger"),
    "shrinking": ("shrinking", "getting smaller"),
    "still": ("staying still", "standing still", "not moving"),
}
SETTINGS = ("on a {} background", "on {}", "in front of a {} background")
ARTICLES = ("a", "one", "the")

# Unit vectors in picture coordinates: x to the right, y downwards.
HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Scene:
    """One clip, described. Lengths are fractions of the picture's side, angles are in radians."""

    shape: str
    colour: str
    background: str
    motion: str
    pace: float
    """Speed of the motion; 1 is usual, 0.75 to 1.25 occur."""
    start: tuple[float, float]
    """Centre of the shape (x, y) in the first frame."""
    radius: float
    tilt: float
    slope: tuple[float, float]
    """Brightness gradient of the background along x and y."""
    clouds: np.ndarray
    """Coarse brightness pattern of the background, (4, 4)."""


def scene(seed: int) -> Scene:
    """Return the scene number `seed`; the same number always gives the same scene."""
    rng = np.random.default_rng([seed, 0x5CE11E])
    motion = str(rng.choice(list(MOTIONS)))
    pace = rng.uniform(0.75, 1.25)
    start = rng.uniform(0.40, 0.60, 2)
    if motion in HEADINGS:
        # Start on the far side, so that the path leads through the middle and stays inside.
        start = np.where(HEADINGS[motion], 0.5 - rng.uniform(0.22, 0.30) * np.array(HEADINGS[motion]), start)
    small, large = {"growing": (0.11, 0.14), "shrinking": (0.28, 0.32)}.get(motion, (0.18, 0.23))
    tilt = rng.uniform(0.35, 0.70) if motion == "spinning" else rng.uniform(-0.08, 0.08)
    return Scene(
        shape=str(rng.choice(SHAPES)),
        colour=str(rng.choice(list(COLOURS))),
        background=str(rng.choice(list(BACKGROUNDS))),
        motion=motion,
        pace=float(pace),
        start=(float(start[0]), float(start[1])),
        radius=float(rng.uniform(small, large)),
        tilt=float(tilt),
        slope=tuple(rng.uniform(-0.10, 0.10, 2)),
        clouds=rng.uniform(-0.06, 0.06, (4, 4)),
    )


def describe(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """Return a prompt for the scene: the standard wording, or with `rng` one of several wordings."""
    if rng is None:
        article, motion, setting = ARTICLES[0], MOTIONS[scene.motion][0], SETTINGS[0]
    else:
        article, motion, setting = (str(rng.choice(w)) for w in (ARTICLES, MOTIONS[scene.motion], SETTINGS))
        if rng.random() < 0.5:
            article, setting = ARTICLES[0], SETTINGS[0]
    if article == "a" and scene.colour[0] in "aeiou":
        article = "an"
    return f"{article} {scene.colour} {scene.shape} {motion} {setting.format(scene.background)}"


def draw(scene: Scene, times: np.ndarray | None = None, size: int = SIZE) -> np.ndarray:
    """Draw the scene at the given times (0 is the first frame, 1 the last of `FRAMES`).

    Returns float32 pictures in [0, 1], (times, size, size, 3).
    """
    times = np.linspace(0, 1, FRAMES) if times is None else np.asarray(times)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    ground = _ground(scene, axis)
    frames = [_frame(scene, float(t), axis, ground) for t in times]
    return np.stack(frames).astype(np.float32)


def vocabulary() -> list[str]:
    """Return all words that prompts are made of, sorted."""
    phrases = [*ARTICLES, "an", *COLOURS, *SHAPES, *sum(MOTIONS.values(), ()), *BACKGROUNDS, *SETTINGS]
    return sorted({word for phrase in phrases for word in phrase.split() if word.isalpha()})


def clip(seed: int, size: int = SIZE) -> tuple[np.ndarray, Scene]:
    """Return the clip number `seed`, (FRAMES, size, size, 3) float32 in [0, 1], and its scene."""
    it = scene(seed)
    return draw(it, size=size), it


def _frame(scene: Scene, time: float, axis: np.ndarray, ground: np.ndarray) -> np.ndarray:
    (x0, y0), radius, tilt = pose(scene, time)
    x, y = (axis[None, :] - x0) / radius, (axis[:, None] - y0) / radius
    x, y = np.cos(tilt) * x + np.sin(tilt) * y, np.cos(tilt) * y - np.sin(tilt) * x
    # One unit of distance is `radius`; edges fade over about one and a half pixels, as through a lens.
    depth = -distance(scene.shape, x, y) * (radius * len(axis))
    cover = np.clip(0.5 + depth / 1.5, 0, 1)[..., None]
    # The shading is fixed to the shape, which makes even a circle's rotation visible.
    shade = np.clip(1.0 - 0.28 * (x + y), 0.55, 1.3)[..., None]
    # On white, shapes are dimmed towards their middle: yellow would hardly be seen.
    dim = np.clip(1.1 - 0.15 * depth, 0.75, 1.0)[..., None] if scene.background == "white" else 1.0
    paint = np.clip(np.array(COLOURS[scene.colour]) * shade * dim, 0, 1)
    return ground + cover * (paint - ground)


def pose(scene: Scene, time: float) -> tuple[tuple[float, float], float, float]:
    """Return centre (x, y), radius and tilt of the shape at a time; units as in `Scene`."""
    dx, dy = HEADINGS.get(scene.motion, (0, 0))
    travel = 0.5 * scene.pace * time
    radius = scene.radius
    if scene.motion == "growing":
        radius += 0.17 * scene.pace * time
    elif scene.motion == "shrinking":
        radius -= 0.15 * scene.pace * time
    turn = 2.6 * scene.pace * time if scene.motion == "spinning" else 0.0
    return (scene.start[0] + dx * travel, scene.start[1] + dy * travel), radius, scene.tilt + turn


def _ground(scene: Scene, axis: np.ndarray) -> np.ndarray:
    """Return the background picture, (size, size, 3): its colour, sloped and clouded."""
    spread = np.linspace(0, 1, len(scene.clouds))
    hats = np.clip(1 - np.abs(axis[:, None] - spread) * (len(spread) - 1), 0, 1)
    weights = hats * hats * (3 - 2 * hats)
    light = weights @ scene.clouds @ weights.T
    light = light + scene.slope[0] * (axis[None, :] - 0.5) + scene.slope[1] * (axis[:, None] - 0.5)
    return np.clip(np.array(BACKGROUNDS[scene.background]) + light[..., None], 0, 1)


def distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the (approximate) signed distance to the outline of a shape of radius 1, negative inside."""
    r = np.hypot(x, y)
    match shape:
        case "circle":
            return r - 0.95
        case "ring":
            return np.abs(r - 0.72) - 0.26
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) - 0.82
        case "cross":
            a, b = np.abs(x), np.abs(y)
            return np.minimum(np.maximum(a - 0.98, b - 0.34), np.maximum(b - 0.98, a - 0.34))
        case "triangle":
            return np.maximum(y, np.abs(x) * 0.866 - y * 0.5) - 0.56
        case "star":
            # Fold the plane into one tenth of the star: half a point, bounded by a single line.
            angle = np.arctan2(x, -y)
            fold = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
            tip, notch = np.array([1.1, 0.0]), 0.5 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
            normal = np.array([notch[1], tip[0] - notch[0]]) / np.hypot(*(tip - notch))
            return (r * np.cos(fold) - tip[0]) * normal[0] + r * np.sin(fold) * normal[1]
    raise ValueError(f"unknown shape {shape!r}")

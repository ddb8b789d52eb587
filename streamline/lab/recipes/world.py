"""A small world of moving shapes: unlimited clips, drawn from a seed, that come with labels and prompts.

A `Scene` says everything about a clip; `draw` turns it into pixels: a shaded shape before a softly clouded wall,
its shadow on the floor below. Scenes are kept simple on purpose, so that a model of a few million parameters can
learn them in an hour. In the scenes made for image-to-video models the first frame tells the motion (a shape on
the right moves left, a small one grows, a tilted one spins, a low one bounces), and the pace is free, from standing
still on: such a model is told it by motion bucket and frame rate.
"""

from dataclasses import dataclass, replace

import numpy as np

SIZE = 64
FRAMES = 8
USUAL_FPS = 7
FASTEST_MOTION_BUCKET = 255
"""Motion bucket, in the sense of Stable Video Diffusion, of a scene of pace 1; others in proportion."""
STILL_PACE = 0.08
"""Up to this pace (motion bucket 20) a scene counts as standing still: at the usual frame rate it moves by three
pixels at most."""
FULL_BOUNCE_PACE = 0.4
"""From this pace on a bouncing shape leaves the ground by its full height; slower ones by less, in proportion."""

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
    "bouncing": ("bouncing", "jumping", "bouncing up and down"),
    "still": ("staying still", "standing still", "not moving"),
}
SETTINGS = ("on a {} background", "on {}", "in front of a {} background")
ARTICLES = ("a", "one", "the")
FORMS = (
    "{subject} {motion} {setting}",
    "{subject} is {motion} {setting}",
    "{setting} {subject} {motion}",
)
FLOORS = {"black": 0.11, "white": -0.16, "gray": -0.13, "brown": 0.10, "navy": 0.10}
"""How much brighter or darker than the wall a floor is."""

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
    """Speed of the motion: 1 is the fastest, 0 stands still."""
    start: tuple[float, float]
    """Centre of the shape (x, y) in the first frame."""
    radius: float
    tilt: float
    slope: tuple[float, float]
    """Brightness gradient of the background along x and y."""
    clouds: np.ndarray
    """Coarse brightness pattern of the background, (4, 4)."""
    horizon: float
    """Where the floor begins, counted from the top."""
    fps: int = USUAL_FPS
    """Frames per second: the more, the less moves from one frame to the next."""


def scene(seed: int) -> Scene:
    """Return the scene number `seed`, made for text; the same number always gives the same scene."""
    return _scene(np.random.default_rng([seed, 0x5CE11E]), list(MOTIONS))


def image_scene(seed: int) -> Scene:
    """Return the scene number `seed`, made for images: any pace and frame rate, and a motion the first frame tells.

    One scene in five stands still; its motion is the one it would have at a higher pace.
    """
    rng = np.random.default_rng([seed, 0x1A6E])
    slow = rng.random() < 0.2
    pace = rng.uniform(0, STILL_PACE) if slow else rng.uniform(STILL_PACE, 1)
    it = _scene(rng, [motion for motion in MOTIONS if motion != "still"])
    return replace(it, pace=float(pace), fps=int(rng.integers(6, 15)))


def _scene(rng: np.random.Generator, motions: list[str]) -> Scene:
    motion = str(rng.choice(motions))
    start = rng.uniform(0.42, 0.56, 2)
    if motion in HEADINGS:
        # Start on the far side, so that the path leads through the middle and stays inside.
        start = np.where(HEADINGS[motion], 0.5 - rng.uniform(0.22, 0.28) * np.array(HEADINGS[motion]), start)
    elif motion == "bouncing":
        start[1] = rng.uniform(0.62, 0.66)
    small, large = {"growing": (0.16, 0.19), "shrinking": (0.30, 0.34)}.get(motion, (0.20, 0.24))
    tilt = rng.uniform(0.35, 0.70) if motion == "spinning" else rng.uniform(-0.08, 0.08)
    return Scene(
        shape=str(rng.choice(SHAPES)),
        colour=str(rng.choice(list(COLOURS))),
        background=str(rng.choice(list(BACKGROUNDS))),
        motion=motion,
        pace=float(rng.uniform(0.75, 1.0)),
        start=(float(start[0]), float(start[1])),
        radius=float(rng.uniform(small, large)),
        tilt=float(tilt),
        slope=tuple(rng.uniform(-0.10, 0.10, 2)),
        clouds=rng.uniform(-0.06, 0.06, (4, 4)),
        horizon=float(rng.uniform(0.70, 0.78)),
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
    subject = f"{article} {scene.colour} {scene.shape}"
    setting = setting.format(scene.background)
    form = FORMS[0] if rng is None else str(rng.choice(FORMS))
    return form.format(subject=subject, motion=motion, setting=setting)


def motion_bucket(scene: Scene) -> int:
    """Return the motion bucket, 0 to 255, that tells an image-to-video model the scene's pace."""
    return round(FASTEST_MOTION_BUCKET * scene.pace)


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
    phrases = [*ARTICLES, "an", "is", *COLOURS, *SHAPES, *sum(MOTIONS.values(), ()), *BACKGROUNDS, *SETTINGS]
    return sorted({word for phrase in phrases for word in phrase.split() if word.isalpha()})


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
    ground = ground * (1 - _shadow(x0, y0, radius, axis)[..., None])
    return ground + cover * (paint - ground)


def _shadow(x0: float, y0: float, radius: float, axis: np.ndarray) -> np.ndarray:
    """Return how much of the light a shape takes from the floor under it: less and softer the higher it is."""
    line = max(0.88, y0 + radius)
    height = line - (y0 + radius)
    x, y = (axis[None, :] - x0) / (radius * (0.9 + height)), (axis[:, None] - line) / 0.05
    return 0.5 / (1 + 2 * height) * np.exp(-(x**2) - y**2)


def pose(scene: Scene, time: float) -> tuple[tuple[float, float], float, float]:
    """Return centre (x, y), radius and tilt of the shape at a time; units as in `Scene`."""
    progress = scene.pace * time * USUAL_FPS / scene.fps
    (x, y), radius, tilt = scene.start, scene.radius, scene.tilt
    match scene.motion:
        case "growing":
            radius += 0.18 * progress
        case "shrinking":
            radius -= 0.16 * progress
        case "spinning":
            tilt += 2.6 * progress
        case "bouncing":
            height = 0.32 * min(1, scene.pace / FULL_BOUNCE_PACE)
            y -= height * abs(np.sin(1.5 * np.pi * progress))
        case heading if heading in HEADINGS:
            x, y = np.array([x, y]) + 0.55 * progress * np.array(HEADINGS[heading])
    return (float(x), float(y)), radius, tilt


def _ground(scene: Scene, axis: np.ndarray) -> np.ndarray:
    """Return the background picture, (size, size, 3): wall and floor of its colour, sloped and clouded."""
    spread = np.linspace(0, 1, len(scene.clouds))
    hats = np.clip(1 - np.abs(axis[:, None] - spread) * (len(spread) - 1), 0, 1)
    weights = hats * hats * (3 - 2 * hats)
    light = weights @ scene.clouds @ weights.T
    light = light + scene.slope[0] * (axis[None, :] - 0.5) + scene.slope[1] * (axis[:, None] - 0.5)
    below = axis[:, None] - scene.horizon
    floor = np.clip(0.5 + below * len(axis) / 2, 0, 1) * FLOORS[scene.background] * (1 - 2 * below)
    colour = np.array(BACKGROUNDS[scene.background])
    # A floor is lit in its own colour, not whitened.
    return np.clip(colour + light[..., None] + floor[..., None] * (0.5 + colour / colour.max() / 2), 0, 1)


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

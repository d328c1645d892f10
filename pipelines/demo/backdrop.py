"""What stands around a scene's subject: sky, hills, ground, water, plants and rocks.

No backdrop tells the class: every subject is put into every one of them. Colours come from a few
hours of the day and kinds of ground, mixed at random.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipelines.demo.canvas import Canvas, Colour, Frame, Point, blended, noise, scaled

SKY, LAND, WATER, PLANT = range(4)
NAMES = ("sky", "land", "water", "plant")

# Zenith, horizon and tint of the light.
HOURS: dict[str, tuple[Colour, Colour, Colour]] = {
    "morning": ((0.55, 0.70, 0.88), (0.98, 0.88, 0.76), (1.04, 1.00, 0.93)),
    "noon": ((0.25, 0.50, 0.85), (0.72, 0.86, 0.96), (1.02, 1.02, 1.00)),
    "overcast": ((0.60, 0.64, 0.69), (0.82, 0.84, 0.85), (0.92, 0.93, 0.96)),
    "evening": ((0.33, 0.29, 0.52), (0.99, 0.63, 0.40), (1.05, 0.88, 0.78)),
    "night": ((0.05, 0.07, 0.20), (0.20, 0.25, 0.42), (0.52, 0.58, 0.80)),
}
GROUNDS: dict[str, Colour] = {
    "meadow": (0.36, 0.56, 0.22),
    "sand": (0.84, 0.73, 0.50),
    "snow": (0.90, 0.93, 0.97),
    "heath": (0.58, 0.42, 0.28),
    "lake": (0.20, 0.42, 0.52),
}


@dataclass(frozen=True)
class Setting:
    """The choices that a whole scene shares.

    Attributes:
        hour: name of the hour of the day.
        ground: kind of ground.
        horizon: height of the horizon, as y on the canvas.
        light: brightness on the left and on the right of things.
    """

    hour: str
    ground: str
    horizon: float
    light: tuple[float, float]

    @property
    def tint(self) -> Colour:
        """Colour of the light that falls on everything but the sky."""
        return HOURS[self.hour][2]

    @property
    def haze(self) -> Colour:
        """Colour that far things fade into."""
        return HOURS[self.hour][1]


def any_setting(rng: np.random.Generator) -> Setting:
    """Draw hour, ground, horizon and the side that the light comes from."""
    slant = rng.uniform(0.05, 0.22) * rng.choice([-1, 1])
    return Setting(
        hour=str(rng.choice(list(HOURS), p=[0.2, 0.3, 0.2, 0.18, 0.12])),
        ground=str(rng.choice(list(GROUNDS))),
        horizon=rng.uniform(0.42, 0.68),
        light=(1 + slant, 1 - slant),
    )


def paint_sky(canvas: Canvas, setting: Setting, rng: np.random.Generator) -> None:
    """Gradient, sun or moon, stars, and clouds from stretched noise."""
    zenith, horizon = (np.array(colour, np.float32) for colour in HOURS[setting.hour][:2])
    heights = np.linspace(0, 1 / setting.horizon, canvas.pixels, dtype=np.float32)
    down = heights.clip(0, 1)[:, None, None] ** np.float32(0.8)
    sky = zenith * (1 - down) + horizon * down
    canvas.repaint(np.broadcast_to(sky, (canvas.pixels, canvas.pixels, 3)))
    paper = Frame(canvas, (0.0, 1.0), 1.0, SKY)
    if setting.hour == "night":
        for x, y in rng.uniform((0, 0.4), (1, 1), (40, 2)):
            paper.disc((x, y), (0.003, 0.003), (0.9, 0.92, 1.0))
    if setting.hour != "overcast" and rng.random() < 0.5:
        at, size = (rng.uniform(0.1, 0.9), rng.uniform(0.72, 0.94)), rng.uniform(0.03, 0.06)
        paper.disc(at, (size, size), (1.0, 0.96, 0.82))
    cover = rng.uniform(-0.4, 1.6)
    cloud = noise(rng, canvas.pixels, (rng.uniform(2, 4), rng.uniform(5, 9)), octaves=4)
    amount = ((cloud - np.float32(cover)) * np.float32(0.9)).clip(0, 0.85)[..., None]
    amount *= np.float32(1.15) - down
    white = (np.float32(0.65) + np.float32(0.35) * horizon) * np.float32(
        0.5 if setting.hour == "night" else 1.0
    )
    picture = canvas.picture()
    canvas.repaint(picture + (white - picture) * amount)


def paint_land(canvas: Canvas, setting: Setting, rng: np.random.Generator) -> None:
    """Ridges that fade into the haze, then the ground or the lake down to the lower edge."""
    near = tuple(rng.uniform(0.85, 1.12) * c for c in GROUNDS[setting.ground])
    ridges = int(rng.integers(0, 4))
    rocky = rng.random() < 0.4
    for k in range(ridges):
        depth = 1 - k / max(ridges, 1)
        hill: Colour = (0.42, 0.45, 0.52) if rocky else (0.30, 0.44, 0.26)
        colour = blended(hill, setting.haze, 0.25 + 0.5 * depth)
        height = rng.uniform(0.03, 0.2) * (0.4 + 0.6 * depth)
        rough = 0.5 if rocky else 0.12
        canvas.polygon(_ridge(setting.horizon, height, rough, rng), colour, LAND)
    colour = (near[0], near[1], near[2])
    label = WATER if setting.ground == "lake" else LAND
    bend = 0.0 if label == WATER else rng.uniform(0.0, 0.03)
    canvas.polygon(_ridge(setting.horizon + 0.01, bend, 0.05, rng), colour, label)


def paint_ground_light(canvas: Canvas, setting: Setting) -> None:
    """Let the ground darken towards the viewer, and a lake mirror the sky near the horizon."""
    below = np.linspace(-setting.horizon, 1 - setting.horizon, canvas.pixels, dtype=np.float32)
    depth = (below / np.float32(1 - setting.horizon)).clip(0, 1)[:, None, None]
    mask = canvas.mask()[..., None]
    picture = canvas.picture()
    lake = np.array(setting.haze, np.float32) * np.float32(0.9)
    if (mask == WATER).any():
        mirrored = picture * (0.35 + 0.6 * depth) + lake * (0.65 - 0.6 * depth)
        picture = np.where(mask == WATER, mirrored, picture)
    canvas.repaint(np.where(mask == LAND, picture * (1.06 - 0.28 * depth), picture))


def paint_pond(canvas: Canvas, foot: Point, width: float, setting: Setting) -> None:
    """A pond around `foot`, or on a lake an island, so that anything can stand anywhere."""
    paper = Frame(canvas, foot, 1.0, LAND if setting.ground == "lake" else WATER)
    shore: Colour = (0.45, 0.47, 0.27) if setting.ground == "lake" else (0.30, 0.50, 0.62)
    paper.disc((0.0, -0.01), (width * 0.72, width * 0.16), scaled(shore, 0.8))
    paper.disc((0.0, 0.0), (width * 0.68, width * 0.14), blended(shore, setting.haze, 0.15))


def conifer(frame: Frame, rng: np.random.Generator) -> None:
    """A fir of three to five tiers."""
    green = _leaf(rng, 0.6)
    frame.box(-0.03, 0.0, 0.03, 0.15, (0.33, 0.24, 0.17))
    tiers = int(rng.integers(3, 6))
    for k in range(tiers):
        low, half = 0.1 + 0.75 * k / tiers, 0.27 * (1 - 0.75 * k / tiers)
        tier = [(-half, low), (half, low), (0.0, low + 0.42)]
        frame.polygon(tier, scaled(green, 0.85 + 0.1 * k))


def leafy_tree(frame: Frame, rng: np.random.Generator) -> None:
    """A trunk with a crown of overlapping discs."""
    green = _leaf(rng, 1.0)
    frame.polygon([(-0.05, 0.0), (0.05, 0.0), (0.03, 0.5), (-0.03, 0.5)], (0.36, 0.26, 0.18))
    for _ in range(14):
        at, size = (rng.normal(0, 0.14), rng.normal(0.66, 0.11)), rng.uniform(0.08, 0.16)
        frame.disc(at, (size, size), scaled(green, rng.uniform(0.8, 1.2)))


def bush(frame: Frame, rng: np.random.Generator) -> None:
    """A low heap of discs, sometimes with blossoms."""
    green = _leaf(rng, 0.9)
    for _ in range(11):
        at, size = (rng.normal(0, 0.24), rng.uniform(0.05, 0.3)), rng.uniform(0.09, 0.17)
        frame.disc(at, (size, size), scaled(green, rng.uniform(0.75, 1.2)))
    blossom = (rng.uniform(0.7, 1), rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9))
    for _ in range(int(rng.choice([0, 0, 9]))):
        frame.disc((rng.normal(0, 0.22), rng.uniform(0.08, 0.36)), (0.03, 0.03), blossom)


def reeds(frame: Frame, rng: np.random.Generator) -> None:
    """A tuft of blades."""
    green = _leaf(rng, 1.0)
    for _ in range(18):
        x, lean, top = rng.normal(0, 0.16), rng.normal(0, 0.12), rng.uniform(0.35, 1.0)
        blade = [(x - 0.02, 0.0), (x + 0.02, 0.0), (x + lean, top)]
        frame.polygon(blade, scaled(green, rng.uniform(0.7, 1.25)))


def rock(frame: Frame, rng: np.random.Generator) -> None:
    """A grey boulder with a lighter upper side."""
    grey = (0.5 * rng.uniform(0.8, 1.2),) * 3
    turns = np.sort(rng.uniform(0, math.pi, 7))
    edge = [(0.4 * math.cos(t), rng.uniform(0.3, 0.42) * math.sin(t)) for t in turns]
    frame.polygon([(0.42, 0.0), *edge, (-0.42, 0.0)], grey)
    frame.polygon([(x * 0.7 - 0.05, y * 0.6 + 0.12) for x, y in edge], scaled(grey, 1.25))


def any_growth(frame: Frame, on_water: bool, rng: np.random.Generator) -> None:
    """One of the plants above; in a lake only what grows there."""
    kinds = (reeds,) if on_water else (conifer, leafy_tree, bush, reeds)
    kinds[int(rng.integers(len(kinds)))](frame, rng)


def _leaf(rng: np.random.Generator, light: float) -> Colour:
    """A green, now and then an autumn colour."""
    if rng.random() < 0.2:
        return scaled((rng.uniform(0.6, 0.85), rng.uniform(0.35, 0.55), 0.15), light)
    return scaled((rng.uniform(0.15, 0.4), rng.uniform(0.42, 0.62), rng.uniform(0.14, 0.3)), light)


def _ridge(base: float, height: float, rough: float, rng: np.random.Generator) -> list[Point]:
    """Outline of a hill from edge to edge, closed along the lower edge of the canvas."""
    xs = np.linspace(-0.02, 1.02, 40)
    swell = np.zeros_like(xs)
    for wave, phase in enumerate(rng.uniform(0, 2 * math.pi, 6)):
        swell += math.exp(-wave * (1 - rough)) * np.sin(2 * math.pi * (wave + 0.5) * xs + phase)
    jagged = rng.normal(0, 0.25 * rough, len(xs))
    ys = base - height * (0.5 + 0.35 * swell + jagged)
    return [*zip(xs.tolist(), ys.tolist(), strict=True), (1.02, 1.1), (-0.02, 1.1)]

"""The eight things that a scene can show: one function a class, drawn on a `Frame`.

Each draws its thing about one unit high, with colours and proportions of its own choice, so that
only its shape tells the class. Where it stands, how large and in what light is the scene's choice.
"""

import colorsys
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np

from pipelines.demo.canvas import Colour, Frame, scaled

Draw = Callable[[Frame, np.random.Generator], None]

DARK: Colour = (0.16, 0.13, 0.13)
GLASS: Colour = (0.62, 0.78, 0.86)
LAMP: Colour = (1.0, 0.87, 0.45)
WOOD: Colour = (0.42, 0.29, 0.18)


def vivid(rng: np.random.Generator) -> Colour:
    """A strong colour of any hue."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.55, 0.9), rng.uniform(0.55, 0.95))


def pale(rng: np.random.Generator) -> Colour:
    """The colour of a wall: any hue, but little of it."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.03, 0.28), rng.uniform(0.65, 0.97))


def balloon(frame: Frame, rng: np.random.Generator) -> None:
    """A hot-air balloon with upright stripes and a basket."""
    colours = [vivid(rng), pale(rng) if rng.random() < 0.6 else vivid(rng)]
    gores = int(rng.integers(5, 10))
    width = rng.uniform(0.3, 0.38)
    heights = np.linspace(0, 1, 14)
    radii = np.maximum(0.07 * (heights < 0.5), width * np.sin(np.pi * heights**0.68))
    for x in (-0.07, 0.07):
        frame.line((x, 0.08), (x * 1.1, 0.24), 0.012, DARK)
    frame.box(-0.075, 0.0, 0.075, 0.1, WOOD)
    for k in range(gores):
        left, right = (math.sin(math.pi * (e / gores - 0.5)) for e in (k, k + 1))
        up = [(left * r, 0.22 + 0.78 * t) for r, t in zip(radii, heights, strict=True)]
        down = [(right * r, 0.22 + 0.78 * t) for r, t in zip(radii, heights, strict=True)]
        light = 1.08 - 0.45 * ((left + right) / 2 + 0.3) ** 2
        frame.polygon(up + down[::-1], scaled(colours[k % 2], light))


def castle(frame: Frame, rng: np.random.Generator) -> None:
    """A wall with battlements between two towers, and a gate."""
    stone, roof = pale(rng), vivid(rng)
    pointed = rng.random() < 0.6
    wall_top = rng.uniform(0.38, 0.5)
    frame.box(-0.4, 0.0, 0.4, wall_top, scaled(stone, 0.92))
    for x in np.arange(-0.36, 0.36, 0.12):
        frame.box(x, wall_top, x + 0.06, wall_top + 0.06, scaled(stone, 0.92))
    towers = [(-0.42, rng.uniform(0.6, 0.74)), (0.42, rng.uniform(0.6, 0.74))]
    if rng.random() < 0.5:
        towers.insert(0, (rng.uniform(-0.12, 0.12), rng.uniform(0.7, 0.8)))
    for x, top in towers:
        frame.box(x - 0.11, 0.0, x + 0.02, top, scaled(stone, 1.04))
        frame.box(x + 0.02, 0.0, x + 0.11, top, scaled(stone, 0.84))
        frame.box(x - 0.025, top - 0.2, x + 0.025, top - 0.09, DARK)
        if pointed:
            frame.polygon([(x - 0.14, top), (x + 0.14, top), (x, top + 0.24)], roof)
        else:
            for step in (-0.12, -0.03, 0.06):
                frame.box(x + step, top, x + step + 0.06, top + 0.07, scaled(stone, 0.95))
    frame.box(-0.09, 0.0, 0.09, 0.17, DARK)
    frame.disc((0.0, 0.17), (0.09, 0.09), DARK)


def cottage(frame: Frame, rng: np.random.Generator) -> None:
    """A small house with a pitched roof, a chimney, a door and windows."""
    wall, roof, door = pale(rng), vivid(rng), vivid(rng)
    eaves, ridge = rng.uniform(0.4, 0.52), rng.uniform(0.82, 0.98)
    half = rng.uniform(0.4, 0.52)
    lit = LAMP if rng.random() < 0.4 else GLASS
    chimney = rng.uniform(0.14, 0.26)
    frame.box(chimney, eaves + 0.1, chimney + 0.1, ridge + 0.03, scaled(roof, 0.6))
    frame.box(-half, 0.0, half, eaves, wall)
    slope = rng.uniform(0.0, 0.28)
    edge = half + 0.07
    gable = [(-edge, eaves - 0.02), (edge, eaves - 0.02), (slope, ridge), (-slope, ridge)]
    frame.polygon(gable, roof)
    frame.polygon([(-edge, eaves - 0.02), (edge, eaves - 0.02), (edge, eaves - 0.05)], DARK)
    at = rng.uniform(-0.1, 0.1)
    frame.box(at - 0.07, 0.0, at + 0.07, 0.29, door)
    for x in (-half * 0.62, half * 0.62):
        frame.box(x - 0.085, 0.15, x + 0.085, 0.33, scaled(wall, 0.55))
        frame.box(x - 0.07, 0.165, x + 0.07, 0.315, lit)
        frame.line((x, 0.165), (x, 0.315), 0.014, scaled(wall, 0.55))
        frame.line((x - 0.07, 0.24), (x + 0.07, 0.24), 0.014, scaled(wall, 0.55))


def lighthouse(frame: Frame, rng: np.random.Generator) -> None:
    """A banded round tower with a gallery and a lamp."""
    bands = [pale(rng), vivid(rng)]
    foot, top = rng.uniform(0.13, 0.18), rng.uniform(0.085, 0.11)
    count = int(rng.integers(3, 7))
    for k in range(count):
        low, high = k / count, (k + 1) / count
        edges = [(foot + (top - foot) * t, 0.74 * t) for t in (low, high)]
        frame.column(edges[0], edges[1], bands[k % 2])
    frame.box(-top - 0.045, 0.74, top + 0.045, 0.77, DARK)
    lamp = LAMP if rng.random() < 0.7 else GLASS
    frame.box(-top * 0.7, 0.77, top * 0.7, 0.88, lamp)
    for x in (-top * 0.7, 0.0, top * 0.7):
        frame.line((x, 0.77), (x, 0.88), 0.012, DARK)
    frame.polygon([(-top * 0.95, 0.88), (top * 0.95, 0.88), (0.0, 1.0)], scaled(bands[1], 0.75))
    frame.box(-0.035, 0.0, 0.035, 0.1, DARK)


def mushroom(frame: Frame, rng: np.random.Generator) -> None:
    """A thick stem under a spotted cap."""
    cap, stem = vivid(rng), pale(rng)
    foot, neck = rng.uniform(0.11, 0.17), rng.uniform(0.08, 0.12)
    brim, crown = rng.uniform(0.42, 0.55), rng.uniform(0.82, 1.0)
    half = rng.uniform(0.36, 0.5)
    frame.column((foot, 0.0), (neck, brim + 0.05), stem)
    frame.disc((0.0, 0.03), (foot * 1.1, 0.05), scaled(stem, 0.9))
    frame.disc((0.0, brim), (half * 0.96, 0.07), scaled(stem, 0.7))
    turns = np.linspace(0, np.pi, 20)
    dome = [(half * math.cos(t), brim + (crown - brim) * math.sin(t)) for t in turns]
    frame.polygon(dome, cap)
    lit = [(x * 0.8 - 0.05, brim + (y - brim) * 0.85 + 0.03) for x, y in dome]
    frame.polygon(lit, scaled(cap, 1.12))
    for _ in range(int(rng.integers(0, 9))):
        turn, out = rng.uniform(0.25, np.pi - 0.25), rng.uniform(0.2, 0.85)
        at = (half * out * math.cos(turn), brim + (crown - brim) * out * math.sin(turn))
        size = rng.uniform(0.025, 0.06)
        frame.disc(at, (size, size * 0.8), scaled(stem, 1.1))


def rocket(frame: Frame, rng: np.random.Generator) -> None:
    """A pointed body with fins, portholes and perhaps a flame."""
    body, trim = pale(rng), vivid(rng)
    half = rng.uniform(0.11, 0.16)
    if rng.random() < 0.5:
        for width, low, colour in ((0.1, -0.22, (0.95, 0.45, 0.1)), (0.055, -0.12, LAMP)):
            frame.polygon([(-width, 0.08), (width, 0.08), (0.0, low)], colour)
    for side in (-1, 1):
        fin = [(side * half * 0.8, 0.36), (side * (half + 0.15), 0.0), (side * half * 0.7, 0.1)]
        frame.polygon(fin, scaled(trim, 1.0 if side < 0 else 0.8))
    heights = np.linspace(0.06, 0.72, 8)
    for low, high in itertools.pairwise(heights):
        edges = [(half * (0.72 + 0.28 * math.sin(math.pi * t / 0.9)), t) for t in (low, high)]
        frame.column(edges[0], edges[1], body)
    neck = half * (0.72 + 0.28 * math.sin(math.pi * 0.8))
    nose = [(-neck, 0.72), (neck, 0.72), (neck * 0.62, 0.87), (0.0, 1.0), (-neck * 0.62, 0.87)]
    frame.polygon(nose, trim)
    for k in range(int(rng.integers(1, 4))):
        frame.disc((0.0, 0.6 - 0.15 * k), (0.05, 0.05), scaled(trim, 0.7))
        frame.disc((0.0, 0.6 - 0.15 * k), (0.036, 0.036), GLASS)


def sailboat(frame: Frame, rng: np.random.Generator) -> None:
    """A hull with a mast, a main sail and a jib."""
    hull, sail = vivid(rng), pale(rng) if rng.random() < 0.6 else vivid(rng)
    deck, top = rng.uniform(0.14, 0.2), rng.uniform(0.9, 1.0)
    half = rng.uniform(0.36, 0.48)
    frame.line((0.02, deck), (0.02, top), 0.025, WOOD)
    bulge = rng.uniform(0.0, 0.06)
    main = [(0.04, deck + 0.06), (half * 0.95, deck + 0.08), (0.25 + bulge, 0.55), (0.04, top)]
    frame.polygon(main, scaled(sail, 1.02))
    jib = [(0.0, deck + 0.08), (-half * 0.9, deck + 0.06), (-0.16 - bulge, 0.5), (0.0, top - 0.08)]
    if rng.random() < 0.8:
        frame.polygon(jib, scaled(sail, 0.88))
    if rng.random() < 0.4:
        frame.polygon([(0.04, 0.4), (0.3, 0.4), (0.27, 0.5), (0.04, 0.5)], hull)
    frame.polygon(
        [(-half - 0.06, deck), (half, deck), (half * 0.78, 0.0), (-half * 0.7, 0.0)], hull
    )
    rim = [(-half - 0.06, deck), (half, deck), (half * 0.97, deck - 0.035), (-half, deck - 0.035)]
    frame.polygon(rim, scaled(hull, 1.35))


def windmill(frame: Frame, rng: np.random.Generator) -> None:
    """A tapering mill with a cap and four sails at any angle."""
    wall, cap, cloth = pale(rng), vivid(rng), pale(rng)
    foot, top = rng.uniform(0.17, 0.23), rng.uniform(0.1, 0.13)
    frame.column((foot, 0.0), (top, 0.62), wall)
    frame.polygon(
        [(-top * 1.2, 0.62), (top * 1.2, 0.62), (top * 0.6, 0.76), (-top * 0.6, 0.76)], cap
    )
    frame.box(-0.045, 0.0, 0.045, 0.15, DARK)
    frame.box(-0.03, 0.34, 0.03, 0.42, GLASS)
    hub, turn, reach = (0.0, 0.66), rng.uniform(0, np.pi / 2), rng.uniform(0.34, 0.42)
    for k in range(4):
        along = (math.cos(turn + k * math.pi / 2), math.sin(turn + k * math.pi / 2))
        aside = (-along[1], along[0])
        corners = [(0.22, 0.01), (1.0, 0.01), (1.0, 0.24), (0.22, 0.24)]
        vane = [
            (
                hub[0] + reach * (a * along[0] + b * aside[0]),
                hub[1] + reach * (a * along[1] + b * aside[1]),
            )
            for a, b in corners
        ]
        frame.polygon(vane, cloth)
        tip = (hub[0] + reach * along[0], hub[1] + reach * along[1])
        frame.line(hub, tip, 0.022, WOOD)
    frame.disc(hub, (0.03, 0.03), DARK)


SUBJECTS: Mapping[str, Draw] = {
    "balloon": balloon,
    "castle": castle,
    "cottage": cottage,
    "lighthouse": lighthouse,
    "mushroom": mushroom,
    "rocket": rocket,
    "sailboat": sailboat,
    "windmill": windmill,
}

"""Small scenes, drawn and not photographed: a labelled corpus for a project that ships none.

`draw_scene` composes one picture with its class mask from a random generator; `write_corpus` lays
many of them out as folders. Scene i of a class and split depends on (seed, split, class, i) only,
so files that are already there are kept and any number of processes writes the same corpus.

    python -m pipelines.demo.scenes scenes --train 250 --val 50
"""

import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipelines.demo import backdrop
from pipelines.demo.canvas import Canvas, Frame, noise
from pipelines.demo.subjects import SUBJECTS

Layout = Literal["classes", "masks"]

CLASSES = tuple(SUBJECTS)
MASK_CLASSES = (*backdrop.NAMES, *SUBJECTS)
SPLITS = ("train", "val")
JPEG_QUALITY = 90
FLYING = {"balloon": 0.8, "rocket": 0.4}  # how often a subject is in the air
# Strength and bumps (across, down) of the texture of each class of the backdrop.
TEXTURES = {
    backdrop.SKY: (0.012, (6, 6)),
    backdrop.LAND: (0.075, (28, 60)),
    backdrop.WATER: (0.07, (8, 70)),
    backdrop.PLANT: (0.10, (70, 70)),
}
SUBJECT_TEXTURE = (0.035, (50, 50))


class Scene(NamedTuple):
    """A picture uint8 [n, n, 3] and its mask uint8 [n, n] (indices of `MASK_CLASSES`)."""

    picture: NDArray[np.uint8]
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Corpus:
    """What to write: `counts` scenes a class and split, `size` pixels square."""

    counts: dict[str, int]
    size: int = 192
    seed: int = 0
    layout: Layout = "classes"


def draw_scene(subject: str, size: int, rng: np.random.Generator) -> Scene:
    """Draw one scene that shows `subject`, one of `CLASSES`."""
    canvas = Canvas(size)
    setting = backdrop.any_setting(rng)
    backdrop.paint_sky(canvas, setting, rng)
    backdrop.paint_land(canvas, setting, rng)
    backdrop.paint_ground_light(canvas, setting)
    flies = rng.random() < FLYING.get(subject, 0.0)
    height = rng.uniform(0.4, 0.75)
    low = 0.97 - 0.03 * height
    foot_y = rng.uniform(height + 0.04, 0.9) if flies else rng.uniform(setting.horizon + 0.05, low)
    foot = (rng.uniform(0.28, 0.72), foot_y)
    _scatter(canvas, setting, max(foot_y, setting.horizon + 0.05), rng)
    floats = subject == "sailboat"
    if not flies and (floats != (setting.ground == "lake") or rng.random() < 0.2):
        backdrop.paint_pond(canvas, foot, height, setting)
    tilt = rng.normal(0, 0.16 if flies else 0.03)
    label = MASK_CLASSES.index(subject)
    frame = Frame(canvas, foot, height, label, rng.random() < 0.5, tilt, setting.light)
    SUBJECTS[subject](frame, rng)
    if not flies:
        _occlude(frame, setting, rng)
    return _developed(canvas, setting, rng)


def write_corpus(folder: Path, corpus: Corpus, workers: int | None = None) -> int:
    """Write the scenes that are not there yet; returns how many there are in all.

    `classes` layout: `<split>/<class>/<class>_0007.jpg`. `masks` layout: `<split>/images/X.jpg`
    beside `<split>/masks/X.png`. Both have `classes.json`, the class names in index order.
    """
    names = CLASSES if corpus.layout == "classes" else MASK_CLASSES
    wanted = list(_wanted(folder, corpus))
    missing = [job for job in wanted if not job.picture.exists()]
    for place in {path.parent for job in missing for path in (job.picture, job.mask) if path}:
        place.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        for _ in pool.map(_write_scene, missing, chunksize=16):
            pass
    listed = [{"index": index, "name": name} for index, name in enumerate(names)]
    _write(folder / "classes.json", json.dumps({"classes": listed}, indent=1).encode())
    return len(wanted)


class _Job(NamedTuple):
    subject: str
    size: int
    key: tuple[int, ...]
    picture: Path
    mask: Path | None


def _wanted(folder: Path, corpus: Corpus) -> Iterator[_Job]:
    for split, count in corpus.counts.items():
        for number, subject in enumerate(CLASSES):
            for i in range(count):
                key = (corpus.seed, SPLITS.index(split), number, i)
                stem = f"{subject}_{i:04d}"
                if corpus.layout == "classes":
                    picture = folder / split / subject / f"{stem}.jpg"
                    yield _Job(subject, corpus.size, key, picture, None)
                else:
                    picture = folder / split / "images" / f"{stem}.jpg"
                    mask = folder / split / "masks" / f"{stem}.png"
                    yield _Job(subject, corpus.size, key, picture, mask)


def _write_scene(job: _Job) -> None:
    scene = draw_scene(job.subject, job.size, np.random.default_rng(job.key))
    if job.mask:
        _write(job.mask, _encoded(scene.mask, "PNG"))
    _write(job.picture, _encoded(scene.picture, "JPEG"))


def _encoded(pixels: NDArray[np.uint8], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=JPEG_QUALITY)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Write by renaming, so that an interruption leaves no half file."""
    aside = path.with_suffix(".part")
    aside.write_bytes(data)
    aside.replace(path)


def _scatter(
    canvas: Canvas, setting: backdrop.Setting, nearest: float, rng: np.random.Generator
) -> None:
    """Plants and rocks behind the subject, the far ones small and first."""
    on_water = setting.ground == "lake"
    count = int(rng.integers(0, 4 if on_water else 9))
    for y in np.sort(rng.uniform(setting.horizon + 0.02, nearest, count)):
        nearness = (y - setting.horizon) / (1 - setting.horizon)
        height = rng.uniform(0.08, 0.2) * (0.5 + 1.2 * nearness)
        foot = (rng.uniform(0.0, 1.0), float(y))
        _grow(Frame(canvas, foot, height, backdrop.PLANT, light=setting.light), on_water, rng)


def _occlude(subject: Frame, setting: backdrop.Setting, rng: np.random.Generator) -> None:
    """Up to three plants or rocks before the subject, at its foot."""
    for _ in range(int(rng.choice([0, 0, 1, 1, 2, 3]))):
        x = subject.foot[0] + rng.normal(0, 0.42) * subject.height
        y = min(subject.foot[1] + rng.uniform(0.0, 0.06), 1.02)
        height = subject.height * rng.uniform(0.25, 0.6)
        if y > setting.horizon:
            frame = Frame(subject.canvas, (x, y), height, backdrop.PLANT, light=setting.light)
            _grow(frame, False, rng)


def _grow(frame: Frame, on_water: bool, rng: np.random.Generator) -> None:
    """A plant, or one time in five a rock."""
    frame = replace(frame, mirrored=rng.random() < 0.5, tilt=rng.normal(0, 0.04))
    if rng.random() < 0.2:
        backdrop.rock(replace(frame, label=backdrop.LAND), rng)
    else:
        backdrop.any_growth(frame, on_water, rng)


def _developed(canvas: Canvas, setting: backdrop.Setting, rng: np.random.Generator) -> Scene:
    """Texture, light and the flaws of a camera, at the final size."""
    picture, mask = canvas.finished()
    for label in range(len(MASK_CLASSES)):
        if not (there := mask == label).any():
            continue
        strength, bumps = TEXTURES.get(label, SUBJECT_TEXTURE)
        texture = 1 + strength * noise(rng, canvas.size, bumps, octaves=2)
        picture[there] *= texture[there][:, None]
    picture[mask != backdrop.SKY] *= np.array(setting.tint, np.float32)
    across = np.linspace(-1, 1, canvas.size, dtype=np.float32)
    vignette = 1 - np.float32(rng.uniform(0, 0.12)) * (across[:, None] ** 2 + across[None, :] ** 2)
    picture *= vignette[..., None]
    contrast, exposure = rng.uniform(0.85, 1.15), rng.normal(0, 0.04)
    grain = rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(0.003, 0.02))
    exposed = (picture - np.float32(0.5)) * np.float32(contrast) + np.float32(0.5 + exposure)
    pixels = ((exposed + grain).clip(0, 1) * 255).round().astype(np.uint8)
    soft = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.7)))
    return Scene(np.asarray(soft), mask)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--train", default=250, show_default=True, help="Scenes a class to train on.")
@click.option("--val", default=50, show_default=True, help="Scenes a class to validate on.")
@click.option("--size", default=192, show_default=True, help="Pixels along each side.")
@click.option("--seed", default=0, show_default=True, help="Another seed, other scenes.")
@click.option("--layout", type=click.Choice(["classes", "masks"]), default="classes")
def main(folder: Path, train: int, val: int, size: int, seed: int, layout: Layout) -> None:
    """Write a corpus of small scenes into FOLDER.

    Example: python -m pipelines.demo.scenes scenes --train 250 --val 50
    """
    corpus = Corpus({"train": train, "val": val}, size, seed, layout)
    click.echo(f"{write_corpus(folder, corpus)} scenes of {len(CLASSES)} classes in {folder}")


if __name__ == "__main__":
    main()

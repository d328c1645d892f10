"""The photos that a fit learns from: listed by a source, decoded once, kept in memory as uint8.

Afterwards a batch of random crops costs one resize a crop. A batch is a pure function of the seed
and the step, so that an interrupted fit goes on with the batches it would have seen.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenstore.errors import ImageRejected, SourceError
from tokenstore.fit.config import FitConfig
from tokenstore.preprocess import Preprocess
from tokenstore.sources.base import Item, Source
from tokenstore.sources.image_folder import ImageFolder

Picture = NDArray[np.uint8]  # [H, W, 3]

KEPT_SHORT_SIDE = 384  # crops come from at most 282 pixels; larger photos are kept smaller
MEASURED = Preprocess("center-crop", (256, 256))
HELD_OUT, CROPS = 0, 1  # streams of random numbers beside each other


@dataclass(frozen=True)
class PhotoList:
    """The photos to use, of one or several folders; `identity` is the hash of their listings."""

    items: tuple[tuple[Source, Item], ...]
    found: int
    identity: str


def list_photos(folders: Sequence[str], config: FitConfig) -> PhotoList:
    """List the images of folders; of a folder with train/ and val/, only train/ is used.

    Of more than `config.photos` images, that many are drawn by the seed.

    Raises:
        SourceError: a folder without images, or too few photos to hold some out.
    """
    digest, items = hashlib.sha256(), []
    for folder in folders:
        source = ImageFolder.open(folder)
        listing = source.listing()
        digest.update(listing.sha256().encode())
        items += [(source, item) for item in listing.splits.get("train", ())]
    if len(items) < 2 * config.held_out:
        raise SourceError(
            f"{len(items)} photos in {', '.join(folders)} are too few to train on: at least "
            f"{2 * config.held_out} are needed, of which {config.held_out} are held out."
        )
    order = np.random.default_rng((config.seed, HELD_OUT)).permutation(len(items))
    chosen = tuple(items[i] for i in order[: config.photos])
    return PhotoList(chosen, len(items), digest.hexdigest())


def decode_photos(
    chosen: PhotoList, threads: int, advance: Callable[[], None]
) -> tuple[list[Picture], list[str]]:
    """Decode all photos into memory; also a sentence for each that could not be used."""

    def decode(entry: tuple[Source, Item]) -> Picture | str:
        source, item = entry
        try:
            return _kept(source.load(item))
        except ImageRejected as error:
            return f"{item.path}: {error}"

    pictures: list[Picture] = []
    rejects: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(decode, chosen.items):
            if isinstance(result, str):
                rejects.append(result)
            else:
                pictures.append(result)
            advance()
    return pictures, rejects


def _kept(image: Image.Image) -> Picture:
    shrink = KEPT_SHORT_SIDE / min(image.size)
    if shrink < 1:
        size = (round(image.width * shrink), round(image.height * shrink))
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image)


def random_crops(pictures: Sequence[Picture], config: FitConfig, step: int) -> Picture:
    """The batch of one step, uint8 [n, crop, crop, 3]: random photo, scale, place and flip."""
    rng = np.random.default_rng((config.seed, CROPS, step))
    smallest, largest = np.log(config.scales)
    crops = np.empty((config.batch_size, config.crop, config.crop, 3), np.uint8)
    for crop, index in zip(crops, rng.integers(len(pictures), size=len(crops)), strict=True):
        picture = pictures[index]
        height, width = picture.shape[:2]
        short = min(height, width)
        side = min(short, config.crop * short / np.exp(rng.uniform(smallest, largest)))
        left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
        resized = Image.fromarray(picture).resize(
            (config.crop, config.crop),
            Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
        )
        crop[:] = np.asarray(resized)[:, :: rng.choice((1, -1))]
    return crops


def measured_pictures(pictures: Sequence[Picture]) -> Picture:
    """Pictures at the size at which tokenizers are measured, uint8 [n, 256, 256, 3]."""
    return np.stack([MEASURED.apply(Image.fromarray(picture)) for picture in pictures])

"""Which metric brings resampled vectors back to the ids that the tokenizer itself would give?

    python -m benchmarks.requantise IMAGES [--tokenizer pocket] [--size 128] [--count 100]

The truth is the photo, cropped and resized as pixels and then tokenized. Beside it stand the crop
of the embedded grid with the nearest code by cosine and by Euclidean distance, and the naive way,
the nearest id. Boxes are those of the random resized crop, scale 0.2 to 1. Prints one JSON object:
share of equal ids, root mean square distance in code space, order-0 entropy of the ids in nats.
"""

import argparse
import json

import numpy as np
import torch
from torch import Tensor

from seit_train.augment.crop import draw_boxes, resize_boxes
from seit_train.embed import Codebook
from tokenstore.preprocess import Preprocess
from tokenstore.sources.image_folder import ImageFolder
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.base import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("--tokenizer", default="pocket")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=100)
    asked = parser.parse_args()
    preprocess = Preprocess("center-crop", (asked.size, asked.size))
    tokenizer = load_tokenizer(asked.tokenizer, preprocess=preprocess)
    photos = load(tokenizer, asked.images, asked.count)
    codebook, ids = torch.as_tensor(tokenizer.codebook), tokenizer.encode(photos)
    size = (ids.shape[1], ids.shape[2])
    rng = torch.Generator().manual_seed(0)
    boxes = draw_boxes(ids, (0.2, 1.0), (3 / 4, 4 / 3), rng)
    truth = tokenizer.encode(crop_pixels(photos, boxes * (asked.size // size[0])))
    by_angle, by_distance = Codebook(codebook, "cosine"), Codebook(codebook, "euclidean")
    cropped = resize_boxes(by_angle(ids), boxes, size)
    found = {
        "truth": truth,
        "cosine": by_angle.nearest(cropped),
        "euclidean": by_distance.nearest(cropped),
        "nearest id": nearest_ids(ids, boxes),
    }
    print(json.dumps({name: compare(one, truth, codebook) for name, one in found.items()}))


def load(tokenizer: Tokenizer, folder: str, count: int) -> np.ndarray:
    source = ImageFolder.open(folder)
    items = [item for split in source.listing().splits.values() for item in split]
    step = max(1, len(items) // count)
    return np.stack([tokenizer.preprocess(source.load(item)) for item in items[::step][:count]])


def crop_pixels(photos: np.ndarray, boxes: Tensor) -> np.ndarray:
    pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).float()
    resized = resize_boxes(pixels, boxes, photos.shape[1:3])
    return resized.permute(0, 2, 3, 1).clamp(0, 255).round().byte().contiguous().numpy()


def nearest_ids(ids: Tensor, boxes: Tensor) -> Tensor:
    spans = []
    for axis in (0, 1):
        side = ids.shape[1 + axis]
        place = (torch.arange(side) + 0.5) * boxes[:, 2 + axis, None] / side
        spans.append((boxes[:, axis, None] + place).long())
    image = torch.arange(len(ids))[:, None, None]
    return ids[image, spans[0][:, :, None], spans[1][:, None, :]]


def compare(ids: Tensor, truth: Tensor, codebook: Tensor) -> dict[str, float]:
    shares = torch.bincount(ids.flatten()).double() / ids.numel()
    gap = (codebook[ids] - codebook[truth]).square().sum(dim=-1)
    return {
        "equal": round((ids == truth).double().mean().item(), 4),
        "distance": round(gap.mean().sqrt().item(), 3),
        "entropy": round(torch.special.entr(shares).sum().item(), 3),
    }


if __name__ == "__main__":
    main()

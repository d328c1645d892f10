"""How well a pocket tokenizer reproduces a folder of photos, and how fast it encodes them.

    python -m benchmarks.pocket_quality IMAGES [--weights FILE] [--size 256] [--threads 2]

Each photo is brought to SIZE x SIZE by `center-crop`, encoded and decoded in fp32. PSNR is that of
the rounded uint8 pictures, averaged over photos. The rate is of `encode` alone, the fastest of
three passes over a batch of 32, so it means something only on a machine that is otherwise idle; the
processor time an image is that of the same passes, and hardly minds company.
Prints one JSON object.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from tokenstore.preprocess import Preprocess
from tokenstore.sources.image_folder import ImageFolder
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.base import Tokenizer

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("--weights")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    preprocess = Preprocess("center-crop", (asked.size, asked.size))
    tokenizer = load_tokenizer("pocket", asked.weights, preprocess=preprocess)
    photos = load(tokenizer, asked.images)
    print(json.dumps({**quality(tokenizer, photos), **rate(tokenizer, photos), **machine(asked)}))


def load(tokenizer: Tokenizer, folder: str) -> np.ndarray:
    source = ImageFolder.open(folder)
    items = [item for split in source.listing().splits.values() for item in split]
    return np.stack([tokenizer.preprocess(source.load(item)) for item in items])


def quality(tokenizer: Tokenizer, photos: np.ndarray) -> dict[str, object]:
    psnr, counts = [], np.zeros(len(tokenizer.codebook), np.int64)
    for start in range(0, len(photos), BATCH):
        originals = photos[start : start + BATCH]
        ids = tokenizer.encode(originals)
        counts += np.bincount(ids.numpy().ravel(), minlength=len(counts))
        decoded = tokenizer.to_uint8(tokenizer.decode(ids))
        errors = ((decoded.astype(np.float64) - originals) ** 2).mean((1, 2, 3))
        psnr.append(10 * np.log10(255**2 / errors))
    shares = counts[counts > 0] / counts.sum()
    return {
        "photos": len(photos),
        "psnr_db": round(float(np.concatenate(psnr).mean()), 3),
        "codes_used": int((counts > 0).sum()),
        "codes": len(counts),
        "entropy_bits": round(float(-(shares * np.log2(shares)).sum()), 3),
        "weights_sha256": tokenizer.weights_sha256,
    }


def rate(tokenizer: Tokenizer, photos: np.ndarray) -> dict[str, object]:
    batch, wall, processor = photos[:BATCH], [], []
    for _ in range(3):
        started, used = time.perf_counter(), time.process_time()
        tokenizer.encode(batch)
        wall.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    return {
        "encoded_images_per_second": round(len(batch) / min(wall), 1),
        "processor_ms_an_encoded_image": round(1000 * min(processor) / len(batch), 1),
    }


def machine(asked: argparse.Namespace) -> dict[str, object]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "size": asked.size,
        "threads": asked.threads,
        "processor": f"{len(names)} x {names[0] if names else platform.processor()}",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()

"""The golden files of SeiT's format: what they hold, and how the format's description writes it.

`python -m tests.golden.golden_seit` wrote tests/golden/seit once, byte by byte from the description
(docs/interop.md) and without any code of tokenstore. They stay as they are.
"""

import gzip
import io
import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("seit")
CODES, WIDTH, SIDE = 391, 4, 4
IMAGES = {"train": 6, "val": 2}


def truth() -> dict[str, tuple[np.ndarray, list[int]]]:
    """Ids [n, 4, 4] and labels of each split; 254, 255 and 390 stand at the ends of images."""
    made, state = {}, 12345
    for split, count in IMAGES.items():
        ids = np.zeros((count, SIDE, SIDE), np.int64)
        for place in range(ids.size):
            state = (1103515245 * state + 12345) % 2**31
            ids.flat[place] = (state >> 8) % CODES
        ids[0, 0, 0], ids[0, -1, -1] = 254, 255
        ids[1, 0, 0], ids[1, -1, -1] = 390, 255
        made[split] = (ids, [(7 * image) % 10 for image in range(count)])
    return made


def codebook() -> np.ndarray:
    return (np.arange(CODES * WIDTH, dtype=np.float32).reshape(CODES, WIDTH) % 97) / 8


def slow_bytes(ids: np.ndarray) -> tuple[bytes, list[int]]:
    """Equation 1 of SeiT, id by id: the bytes of all images, and where each starts and the end."""
    out, starts = bytearray(), [0]
    for image in ids:
        for value in image.ravel().tolist():
            if value < 255:
                out.append(value)
            else:
                out.append(255)
                out.append(value - 255)
        starts.append(len(out))
    return bytes(out), starts


def write(folder: Path) -> None:
    import torch

    folder.mkdir()
    for split, (ids, labels) in truth().items():
        data, starts = slow_bytes(ids)
        stream = io.BytesIO()
        np.save(stream, np.array(starts, np.int64))
        stem = f"imagenet1k-{split}"
        (folder / f"{stem}-token.data.bin.gz").write_bytes(gzip.compress(data, mtime=0))
        index = gzip.compress(stream.getvalue(), mtime=0)
        (folder / f"{stem}-token.index.npy.gz").write_bytes(index)
        (folder / f"{stem}-label.txt").write_text("".join(f"{label}\n" for label in labels))
    torch.save(torch.from_numpy(codebook()), folder / "codebook.ckpt")
    (folder / "synonyms.json").write_text(json.dumps({"0": [1, 2], "1": [0, 2]}))


if __name__ == "__main__":
    write(FOLDER)

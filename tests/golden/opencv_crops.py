"""What OpenCV makes of a picture: the cases, and how the hashes in `test_preprocess.py` were made.

Run where opencv-python-headless, albumentations and numpy are installed (they are no part of this
project): `python tests/golden/opencv_crops.py` prints the table. Frozen with albumentations 2.0.8
and OpenCV 5.0.0.
"""

import hashlib

import numpy as np

# (height, width) of the picture -> (height, width) of the crop.
CASES = [
    ((97, 131), (32, 32)),  # shrunk, no whole factor
    ((131, 97), (32, 32)),  # high
    ((40, 50), (64, 64)),  # enlarged
    ((128, 150), (64, 64)),  # halved exactly: 75 of 150 too
    ((129, 150), (64, 64)),  # almost halved
    ((64, 91), (64, 64)),  # cut only
    ((1, 5), (8, 8)),  # nothing below or above a pixel
    ((333, 500), (256, 256)),
    ((90, 200), (48, 80)),  # not square
    ((375, 211), (40, 96)),
]


def pattern(height: int, width: int) -> np.ndarray:
    """A picture full of steps, uint8 [height, width, 3], from arithmetic alone."""
    y, x, channel = np.ogrid[:height, :width, :3]
    steps = y * y * 7 + x * 31 * (channel + 1) + x * y * 13
    return np.asarray(steps % 256, np.uint8)


def digest(picture: np.ndarray) -> str:
    """The first 16 digits of the SHA-256 of a picture's bytes."""
    return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()[:16]


def main() -> None:
    """Print the hashes that the real libraries give."""
    import albumentations

    for given, (height, width) in CASES:
        sides = {"max_size_hw": (height, width)} if height != width else {"max_size": height}
        steps = [
            albumentations.SmallestMaxSize(**sides),
            albumentations.CenterCrop(height, width),
        ]
        made = albumentations.Compose(steps)(image=pattern(*given))["image"]
        print(f'    "{digest(made)}",')


if __name__ == "__main__":
    main()

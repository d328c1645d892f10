"""Corruptions: what each does to a picture, and accuracy under them."""

import numpy as np
import pytest

from seit_train.evaluate.corruptions import (
    KINDS,
    Corruption,
    corrupt,
    corruption_change,
    parse_corruption,
)
from seit_train.evaluate.gallery import Decoded
from seit_train.evaluate.robust import judge_corrupted
from tokenstore.errors import UnknownName, UsageError

GREY = np.full((40, 48, 3), 128, np.uint8)
BLOCKS = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
PHOTO = BLOCKS.repeat(7, 0).repeat(7, 1)
EVEN = ("gaussian_blur", "defocus_blur", "zoom_blur", "pixelate", "contrast")


def rng():
    return np.random.default_rng(1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_grows_with_its_level_and_is_repeatable(kind):
    results = [corrupt(PHOTO, kind, level, rng()) for level in range(1, 6)]
    for image in results:
        assert (image.shape, image.dtype) == (PHOTO.shape, np.uint8)
    distances = [np.abs(image.astype(float) - PHOTO).mean() for image in results]
    assert distances[0] > 0
    # Saturation is lowered by levels 1 and 2 and raised by the others.
    assert distances[4] > distances[2 if kind == "saturate" else 0]
    assert np.array_equal(corrupt(PHOTO, kind, 3, rng()), results[2])


def test_noise_has_the_published_deviation():
    noisy = corrupt(np.full((200, 200, 3), 128, np.uint8), "gaussian_noise", 1, rng())
    assert noisy.std() / 255 == pytest.approx(0.08, rel=0.02)
    few = corrupt(np.full((200, 200, 3), 128, np.uint8), "shot_noise", 1, rng())
    assert few.std() / 255 == pytest.approx(np.sqrt(128 / 255 / 60), rel=0.02)
    lost = corrupt(np.full((200, 200, 3), 128, np.uint8), "impulse_noise", 5, rng())
    assert np.isin(lost, (0, 255)).mean() == pytest.approx(0.27, abs=0.01)


@pytest.mark.parametrize("kind", EVEN)
def test_what_only_blurs_leaves_an_even_picture(kind):
    for level in (1, 5):
        assert np.abs(corrupt(GREY, kind, level, rng()).astype(int) - 128).max() <= 1


def test_a_blurred_point_has_the_deviation_of_the_level():
    point = np.zeros((81, 81, 3), np.uint8)
    point[40, 40] = 255
    blurred = KINDS["gaussian_blur"](point / 255, 2, rng())[..., 0]
    places = np.arange(-40, 41)
    assert blurred.sum() == pytest.approx(1)
    assert np.sqrt((blurred.sum(0) * places**2).sum()) == pytest.approx(3, rel=0.01)
    disk = KINDS["defocus_blur"](point / 255, 0, rng())[..., 0]
    assert (disk > 0.5 * disk.max()).sum() == 29  # pixels within a radius of 3


def test_brightness_and_contrast_are_those_of_the_paper():
    assert abs(int(corrupt(GREY, "brightness", 2, rng())[0, 0, 0]) - (128 + 51)) <= 1
    two = np.concatenate([np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 200, np.uint8)])
    assert np.unique(corrupt(two, "contrast", 1, rng())).tolist() == [130, 170]


def test_what_is_drawn_depends_on_the_picture_and_not_on_its_batch():
    def decoded(numbers):
        return Decoded(np.stack([PHOTO] * len(numbers)), None, np.array(numbers), [])

    change = corruption_change("gaussian_noise", 2, seed=5)
    both, alone = change(decoded([3, 7])), change(decoded([7]))
    assert np.array_equal(both[1], alone[0])
    assert not np.array_equal(both[0], both[1])
    assert not np.array_equal(corruption_change("gaussian_noise", 2, 6)(decoded([7])), alone)


def test_levels_are_read():
    assert parse_corruption("contrast:1-3") == Corruption("contrast", (1, 2, 3))
    assert parse_corruption("contrast:5,1") == Corruption("contrast", (1, 5))
    assert parse_corruption("contrast").levels == (1, 2, 3, 4, 5)
    with pytest.raises(UsageError, match="levels are 1 to 5"):
        parse_corruption("contrast:6")
    with pytest.raises(UnknownName, match="contrast"):
        parse_corruption("contrst:1")


def test_the_mean_is_over_levels_and_then_over_kinds():
    def judge(change, what):
        return {"top1": {"contrast 1": 0.4, "contrast 2": 0.2, "pixelate 5": 0.9}[what]}

    asked = [Corruption("contrast", (1, 2)), Corruption("pixelate", (5,))]
    found = judge_corrupted(judge, asked, "top1", 0)
    assert found["kinds"]["contrast"]["mean"] == pytest.approx(0.3)
    assert found["mean"] == pytest.approx(0.6)
    with pytest.raises(UsageError, match="twice"):
        judge_corrupted(judge, [asked[1], asked[1]], "top1", 0)

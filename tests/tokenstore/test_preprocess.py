"""Preprocess: which part of a picture is kept, at which size, and its form in a manifest."""

import numpy as np
import pytest
from PIL import Image

from tests.toy_images import BLUE, GREEN, RED, picture
from tokenstore.errors import UnknownName, UsageError
from tokenstore.preprocess import RULES, Preprocess


def thirds() -> Image.Image:
    """A 90x30 picture of three squares: red, green, blue."""
    image = Image.new("RGB", (90, 30))
    for index, colour in enumerate((RED, GREEN, BLUE)):
        image.paste(colour, (30 * index, 0, 30 * index + 30, 30))
    return image


def is_green(made: np.ndarray) -> bool:
    """All green but at the border, where the bicubic filter reaches beyond the crop."""
    inside = made[:, made.shape[1] // 8 : -made.shape[1] // 8]
    return bool((inside[2:-2] == GREEN).all() and (made[..., 1] > 150).all())


def test_center_crop_keeps_the_middle_of_a_wide_picture() -> None:
    assert is_green(Preprocess("center-crop", (64, 64)).apply(thirds()))


def test_center_crop_keeps_the_middle_of_a_high_picture() -> None:
    turned = thirds().transpose(Image.Transpose.ROTATE_90)
    assert is_green(Preprocess("center-crop", (16, 16)).apply(turned))


def test_squash_keeps_the_whole_picture() -> None:
    squashed = Preprocess("squash", (10, 30)).apply(thirds())
    assert [tuple(squashed[5, x]) for x in (3, 15, 26)] == [RED, GREEN, BLUE]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(8, 8), (24, 64), (64, 24)])
@pytest.mark.parametrize("given", [(1, 1), (100, 30), (31, 77)])
def test_every_rule_gives_the_asked_size_as_uint8(
    rule: str, size: tuple[int, int], given: tuple[int, int]
) -> None:
    made = Preprocess(rule, size).apply(picture(0, given))
    assert made.shape == (*size, 3)
    assert made.dtype == np.uint8


@pytest.mark.parametrize("rule", RULES)
def test_a_picture_of_the_asked_size_is_not_changed(rule: str) -> None:
    given = picture(1, (48, 40))
    assert np.array_equal(Preprocess(rule, (40, 48)).apply(given), np.asarray(given))


def test_center_crop_is_resizing_the_shorter_side_and_cutting_out_the_middle() -> None:
    given = picture(2, (400, 200))
    resized = np.asarray(given.resize((200, 100), Image.Resampling.BICUBIC))
    assert np.array_equal(Preprocess("center-crop", (100, 100)).apply(given), resized[:, 50:150])


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    made = Preprocess("squash", (8, 8)).apply(Image.fromarray(stripes))
    assert abs(made[2:-2, 2:-2].astype(int) - 127).max() < 8


def test_settings_survive_json() -> None:
    rule = Preprocess("squash", (96, 128))
    assert rule.as_json() == {"rule": "squash", "size": [96, 128]}
    assert Preprocess.from_json(rule.as_json()) == rule


def test_an_unknown_rule_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="'centre-crop'.*center-crop, squash"):
        Preprocess("centre-crop", (8, 8))


@pytest.mark.parametrize("settings", [{}, {"rule": "squash", "size": 8}, {"rule": "squash"}])
def test_settings_of_another_form_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="preprocess settings"):
        Preprocess.from_json(settings)


def test_a_size_below_one_pixel_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\(0, 8\)"):
        Preprocess("squash", (0, 8))


def test_a_picture_that_is_not_rgb_is_refused() -> None:
    with pytest.raises(UsageError, match="mode L"):
        Preprocess("squash", (8, 8)).apply(Image.new("L", (8, 8)))

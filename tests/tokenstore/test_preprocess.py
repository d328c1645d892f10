"""Preprocess: which part of a picture is kept, at which size, and its form in a manifest."""

import numpy as np
import pytest
from PIL import Image

from tests.golden import opencv_crops
from tests.toy_images import BLUE, GREEN, RED, picture
from tokenstore.errors import UnknownName, UsageError
from tokenstore.preprocess import RULES, Preprocess

# Made by tests/golden/opencv_crops.py with albumentations 2.0.8 on OpenCV 5.0.0.
OPENCV_SAYS = [
    "31e0f6cf80933c8a",
    "518e662f074d04b2",
    "620766222f044d6f",
    "495d8fac1aaa1724",
    "8ccd92dc56e28273",
    "ff1915fe76b5a660",
    "63855e8b6009ce9f",
    "adf08bde66845fc3",
    "80d560095ac63a56",
    "87a8cc22350b49cd",
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(32, 32), (48, 64)])
@pytest.mark.parametrize("original", [(211, 150), (97, 240), (64, 48), (330, 330)])
def test_a_mask_goes_through_the_crop_and_resize_of_its_image(
    rule: str, size: tuple[int, int], original: tuple[int, int]
) -> None:
    rng = np.random.default_rng(sum(original))
    centres = rng.uniform(0, 1, (6, 2)) * original[::-1]
    rows, columns = np.ogrid[: original[1], : original[0]]
    distances = [(rows - y) ** 2 + (columns - x) ** 2 for y, x in centres]
    mask = np.argmin(distances, axis=0).astype(np.uint8)  # regions without slivers
    grey = Image.fromarray(np.repeat((40 * mask)[..., None], 3, axis=2))
    preprocess = Preprocess(rule, size)
    found, picture = preprocess.apply_to_mask(mask), preprocess.apply(grey)[..., 0]
    assert found.shape == picture.shape == size
    assert set(np.unique(found)) <= set(np.unique(mask))
    # Inside of the regions both say the same; a filter reaches two pixels of either size.
    reach = 2 + int(np.ceil(2 * max(size[0] / original[1], size[1] / original[0])))
    inner = _uniform(found, reach)
    assert inner.mean() > 0.2
    assert np.array_equal(picture[inner], 40 * found[inner])


def _uniform(values: np.ndarray, reach: int) -> np.ndarray:
    """Whether all within `reach` pixels have one value."""
    padded = np.pad(values, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
    return windows.min(axis=(2, 3)) == windows.max(axis=(2, 3))


def test_a_mask_of_the_right_size_is_not_touched() -> None:
    mask = np.random.default_rng(0).integers(0, 256, (32, 48)).astype(np.uint8)
    for rule in RULES:
        assert np.array_equal(Preprocess(rule, (32, 48)).apply_to_mask(mask), mask)


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


def test_center_crop_takes_sides_whose_ratio_no_float_holds() -> None:
    assert Preprocess("center-crop", (29, 171)).apply(picture(2, (173, 125))).shape == (29, 171, 3)


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    made = Preprocess("squash", (8, 8)).apply(Image.fromarray(stripes))
    assert abs(made[2:-2, 2:-2].astype(int) - 127).max() < 8


@pytest.mark.parametrize(
    ("case", "expected"), list(zip(opencv_crops.CASES, OPENCV_SAYS, strict=True))
)
def test_center_crop_opencv_gives_the_bytes_of_albumentations_and_opencv(
    case: tuple[tuple[int, int], tuple[int, int]], expected: str
) -> None:
    given, size = case
    image = Image.fromarray(opencv_crops.pattern(*given))
    assert opencv_crops.digest(Preprocess("center-crop-opencv", size).apply(image)) == expected


def test_center_crop_opencv_does_not_antialias() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    made = Preprocess("center-crop-opencv", (8, 8)).apply(Image.fromarray(stripes))
    assert set(np.unique(made)) == {128}  # between pixels 3 and 4 of each 8
    third = Preprocess("center-crop-opencv", (21, 21)).apply(Image.fromarray(stripes[:63, :63]))
    assert set(np.unique(third)) == {0, 255}  # the middle one of each 3


def test_center_crop_box_halves_then_resizes_then_cuts() -> None:
    given = picture(3, (701, 523))  # (width, height); 128 goes four times into 523
    halved = given.resize((350, 261), Image.Resampling.BOX).resize((175, 130), Image.Resampling.BOX)
    resized = halved.resize((172, 128), Image.Resampling.BICUBIC)  # 172.3 and 128
    expected = np.asarray(resized)[:, 22 : 22 + 128]
    assert np.array_equal(Preprocess("center-crop-box", (128, 128)).apply(given), expected)


def test_center_crop_box_halves_to_exactly_the_asked_side_and_no_further() -> None:
    given = picture(4, (90, 64))
    expected = np.asarray(given.resize((45, 32), Image.Resampling.BOX))[:, 6:38]
    assert np.array_equal(Preprocess("center-crop-box", (32, 32)).apply(given), expected)


def test_center_crop_box_enlarges_by_bicubic_alone() -> None:
    given = picture(5, (30, 20))
    expected = np.asarray(given.resize((96, 64), Image.Resampling.BICUBIC))[:, 16:80]
    assert np.array_equal(Preprocess("center-crop-box", (64, 64)).apply(given), expected)


def test_squash_bilinear_is_pils_antialiased_bilinear() -> None:
    given = picture(6, (77, 50))
    expected = np.asarray(given.resize((24, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(Preprocess("squash-bilinear", (32, 24)).apply(given), expected)


def test_the_rules_are_five_and_their_pixels_differ() -> None:
    made = [Preprocess(rule, (32, 32)).apply(picture(7, (150, 90))) for rule in RULES]
    assert len({array.tobytes() for array in made}) == len(RULES) == 5


def test_settings_survive_json() -> None:
    rule = Preprocess("squash", (96, 128))
    assert rule.as_json() == {"rule": "squash", "size": [96, 128]}
    assert Preprocess.from_json(rule.as_json()) == rule


def test_an_unknown_rule_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="'centre-crop'.*center-crop, .*, squash,"):
        Preprocess("centre-crop", (8, 8))


def test_settings_that_nobody_knows_are_refused_with_the_cure() -> None:
    with pytest.raises(UsageError, match=r"do not say which tokenizer .* store\.ids\(ranks\)"):
        Preprocess.from_json({})


@pytest.mark.parametrize("settings", [{"size": [8, 8]}, {"rule": "squash", "size": 8}])
def test_settings_of_another_form_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="preprocess settings"):
        Preprocess.from_json(settings)


def test_a_size_below_one_pixel_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\(0, 8\)"):
        Preprocess("squash", (0, 8))


def test_a_picture_that_is_not_rgb_is_refused() -> None:
    with pytest.raises(UsageError, match="mode L"):
        Preprocess("squash", (8, 8)).apply(Image.new("L", (8, 8)))

"""Contact sheets show every pixel of every picture, where it belongs."""

import numpy as np

from tokenstore.contact_sheet import CAPTION_PIXELS, GAP, contact_sheet, grid_of


def flat(value: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_pictures_stand_in_their_rows_and_columns() -> None:
    sheet = np.asarray(contact_sheet([[flat(10), flat(20)], [flat(30)]]))
    step = 128 + GAP
    assert sheet.shape == (2 * step + GAP, 2 * step + GAP, 3)
    assert (sheet[GAP : GAP + 128, GAP : GAP + 128] == 10).all()
    assert (sheet[GAP : GAP + 128, GAP + step : GAP + step + 128] == 20).all()
    assert (sheet[GAP + step : GAP + step + 128, GAP : GAP + 128] == 30).all()
    assert (sheet[GAP + step :, GAP + step :] == 255).all()


def test_small_pictures_are_enlarged_by_whole_pixels() -> None:
    picture = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    sheet = np.asarray(contact_sheet([[picture]]))
    assert np.array_equal(sheet[GAP : GAP + 128 : 4, GAP : GAP + 128 : 4], picture)


def test_captions_stand_below_their_pictures() -> None:
    plain, captioned = contact_sheet([[flat(9)]]), contact_sheet([[flat(9)]], [["7 apple\npear"]])
    assert captioned.height > plain.height + 2 * CAPTION_PIXELS
    below = np.asarray(captioned)[GAP + 128 :]
    assert (below < 100).any()


def test_a_long_caption_stays_below_its_own_picture() -> None:
    sheet = np.asarray(contact_sheet([[flat(255), flat(255)]], [["x" * 200, ""]]))
    right = sheet[:, GAP + 128 + GAP :]
    assert (right == 255).all()
    assert (sheet < 100).any()


def test_pictures_of_different_sizes_share_one_sheet() -> None:
    sheet = contact_sheet([[flat(1, 128, 192), flat(2, 64, 64)]])
    assert sheet.size == (2 * (192 + GAP) + GAP, 128 + 2 * GAP)


def test_a_grid_is_about_square() -> None:
    sheet = grid_of([flat(i) for i in range(7)], [str(i) for i in range(7)])
    assert sheet.width == GAP + 3 * (128 + GAP)


def test_an_empty_sheet_is_an_image_too() -> None:
    assert contact_sheet([]).size == (GAP, GAP)

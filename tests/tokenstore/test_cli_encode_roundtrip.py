"""`tokenstore encode` and `tokenstore roundtrip`: single images to ids, and back to a picture."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.toy_images import BLUE, RED, encoded, halves, picture
from tokenstore.cli.main import main
from tokenstore.single_images import psnr

pytestmark = pytest.mark.usefixtures("toy_tokenizer")

RED_ID, BLUE_ID = 48, 3  # of four levels a channel


def run(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def told(*words: object) -> str:
    result = run(*words, "--tokenizer", "toy")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A picture of 32x16 pixels, red on the left and blue on the right."""
    halves(RED, BLUE).save(tmp_path / "two.png")
    return tmp_path / "two.png"


# --- encode


def test_ids_are_printed_a_line_a_row_below_the_name_of_the_image(two: Path) -> None:
    lines = told("encode", two, "--preprocess", "squash", "--image-size", "16x32").splitlines()
    assert lines == [f"{two} 2x4", *[f"{RED_ID} {RED_ID} {BLUE_ID} {BLUE_ID}"] * 2]


def test_json_has_path_grid_and_ids_of_each_image(two: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), BLUE).save(tmp_path / "blue.png")
    facts = json.loads(told("encode", two, tmp_path / "blue.png", "--image-size", "8x16", "--json"))
    assert [fact["path"] for fact in facts] == [str(two), str(tmp_path / "blue.png")]
    assert [fact["grid"] for fact in facts] == [[1, 2], [1, 2]]
    assert [fact["ids"] for fact in facts] == [[[RED_ID, BLUE_ID]], [[BLUE_ID, BLUE_ID]]]


def test_more_images_than_are_encoded_at_once_keep_their_order(tmp_path: Path) -> None:
    files = [tmp_path / f"{number:02d}.png" for number in range(18)]
    for number, file in enumerate(files):
        Image.new("RGB", (8, 8), (number % 4 * 64 + 32, 0, 0)).save(file)
    facts = json.loads(told("encode", *files, "--image-size", "8", "--json"))
    assert [fact["ids"][0][0] for fact in facts] == [number % 4 * 16 for number in range(18)]


def test_the_tokenizers_own_rule_and_size_hold_where_nothing_is_asked(tmp_path: Path) -> None:
    (tmp_path / "wide.jpg").write_bytes(encoded(picture(3, (90, 40))))
    (fact,) = json.loads(told("encode", tmp_path / "wide.jpg", "--json"))
    assert fact["grid"] == [4, 4]


@pytest.mark.parametrize("verb", [["encode"], ["roundtrip", "-o", "sheet.png"]])
@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("no.jpg", b"no picture", "no JPEG, PNG, WebP or BMP image"),
        ("empty.jpg", b"", "the file is empty"),
        ("missing.jpg", None, "cannot be read: No such file"),
    ],
)
def test_an_image_that_cannot_be_used_is_named_and_nothing_is_printed(
    verb: list[str], name: str, content: bytes | None, why: str, two: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = run(*verb, two, tmp_path / name, "--tokenizer", "toy")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"'{tmp_path / name}'" in result.stderr and why in result.stderr
    assert not Path("sheet.png").exists()


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    result = run("encode", tmp_path, "--tokenizer", "toy")
    assert (result.exit_code, "Is a directory" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--image-size", "12"), "multiples of 8, not 12x12"),
        (("--image-size", "a"), "'a' is neither N nor HxW"),
        (("--preprocess", "crop"), "'crop' is not one of 'center-crop'"),
        (("--tokenizer", "tiy"), "unknown tokenizer 'tiy'"),
    ],
)
def test_what_a_tokenizer_cannot_take_is_refused(
    words: tuple[str, ...], why: str, two: Path
) -> None:
    given = words if "--tokenizer" in words else (*words, "--tokenizer", "toy")
    result = run("encode", two, *given)
    assert (result.exit_code, why in result.stderr) == (2, True), result.stderr


# --- roundtrip


def test_the_sheet_shows_the_original_beside_what_was_decoded(two: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    told("roundtrip", two, "-o", sheet, "--image-size", "128x256", "--preprocess", "squash")
    pixels = np.asarray(Image.open(sheet))
    left, right = pixels[60, 8 + 60], pixels[60, 8 + 256 + 8 + 60]
    assert tuple(left) == RED
    assert tuple(right) == (224, 32, 32)


def test_json_has_the_psnr_of_each_image_and_their_mean(tmp_path: Path) -> None:
    for name, grey in (("a", 224), ("b", 240)):  # 224 is a colour of the codebook
        Image.new("RGB", (16, 16), (grey,) * 3).save(tmp_path / f"{name}.png")
    files = (tmp_path / "a.png", tmp_path / "b.png")
    facts = json.loads(told("roundtrip", *files, "-o", tmp_path / "s.png", "--json"))
    expected = 10 * np.log10(255**2 / 16**2)
    assert [image["path"] for image in facts["images"]] == list(map(str, files))
    assert [image["psnr"] for image in facts["images"]] == [100.0, pytest.approx(expected)]
    assert facts["mean_psnr"] == pytest.approx((100 + expected) / 2)
    assert facts["sheet"] == str(tmp_path / "s.png")


def test_the_psnr_is_printed_for_each_image_and_on_the_mean(two: Path, tmp_path: Path) -> None:
    words = ("--image-size", "16x32", "--preprocess", "squash")
    first, last = told("roundtrip", two, "-o", tmp_path / "s.png", *words).splitlines()
    assert first.split() == ["18.12", "dB", str(two)]  # 31, 32 and 32 levels off
    assert last.split() == ["18.12", "dB", "mean", "of", "1"]


def test_a_sheet_of_no_known_format_is_refused(two: Path, tmp_path: Path) -> None:
    result = run("roundtrip", two, "-o", tmp_path / "sheet.doc", "--tokenizer", "toy")
    assert (result.exit_code, "Name it .png" in result.stderr) == (2, True)


def test_psnr_is_of_squared_errors_and_never_infinite() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black) == 100
    assert psnr(black, np.full_like(black, 255)) == 0
    assert psnr(black, black + 1) == pytest.approx(20 * np.log10(255))

"""`tokenstore build --vocabulary`: new images by the codes of an existing store, at its ranks."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tokenstore
from tests.toy_images import BLUE, GREEN, RED, WHITE
from tests.toy_tokenizer import ToyTokenizer
from tokenstore.cli.main import main
from tokenstore.verify import verify_store

pytestmark = pytest.mark.usefixtures("toy_tokenizer")

DARK_RED = (90, 0, 0)  # a code of its own, whose nearest of red, green and blue is red


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["build", *map(str, words)])


def built(*words: object) -> tokenstore.Store:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return tokenstore.open(words[words.index("-o") + 1])


def flat(folder: Path, **pictures: tuple[int, int, int]) -> Path:
    """A folder of one-coloured pictures, named by the keywords."""
    folder.mkdir(parents=True)
    for name, colour in pictures.items():
        Image.new("RGB", (48, 32), colour).save(folder / f"{name}.png")
    return folder


def ids_of(store: tokenstore.Store) -> dict[str, int]:
    """The one id of each flat picture, by key."""
    samples = store["train"][:]
    return {str(s.key): int(store.ids(s.ranks).flat[0]) for s in samples}


@pytest.fixture
def old(tmp_path: Path) -> tokenstore.Store:
    """A store of red twice, green and blue, squashed to 16x24."""
    folder = flat(tmp_path / "old", a=RED, b=RED, c=GREEN, d=BLUE)
    words = ("--tokenizer", "toy", "--preprocess", "squash", "--image-size", "16x24")
    return built(folder, "-o", tmp_path / "old.tokenstore", *words)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """New pictures: one colour that the old store knows, two that it does not."""
    return flat(tmp_path / "new", blue=BLUE, dark=DARK_RED, white=WHITE)


def test_only_codes_of_the_old_store_occur_and_free_winners_among_them_win(
    old: tokenstore.Store, fresh: Path, tmp_path: Path
) -> None:
    free = ids_of(built(fresh, "-o", tmp_path / "free", "--tokenizer", "toy"))
    bound = ids_of(built(fresh, "-o", tmp_path / "bound", "--vocabulary", old.url))
    assert set(bound.values()) <= set(old.vocabulary.ids.tolist())
    assert bound["blue"] == free["blue"]
    assert bound["dark"] != free["dark"]
    assert bound["dark"] == ids_of(old)["a"]


def test_ranks_mean_the_same_codes_and_counts_are_those_of_the_new_images(
    old: tokenstore.Store, fresh: Path, tmp_path: Path
) -> None:
    new = built(fresh, "-o", tmp_path / "new.tokenstore", "--vocabulary", old.url)
    assert new.vocabulary_fingerprint == old.vocabulary_fingerprint
    assert np.array_equal(new.codebook, old.codebook)
    found = np.bincount(new["train"].read(range(3)).ranks.ravel(), minlength=3)
    assert new.vocabulary.counts.tolist() == found.tolist()
    assert verify_store(new.storage) == []


def test_a_code_that_no_new_image_has_keeps_its_rank(old: tokenstore.Store, tmp_path: Path) -> None:
    folder = flat(tmp_path / "greens", a=GREEN)
    new = built(folder, "-o", tmp_path / "s", "--vocabulary", old.url)
    assert sorted(new.vocabulary.counts.tolist()) == [0, 0, 6]
    assert new.manifest.vocabulary.entropy == 0
    assert verify_store(new.storage) == []


def test_tokenizer_and_resizing_are_those_of_the_old_store_unless_given(
    old: tokenstore.Store, fresh: Path, tmp_path: Path
) -> None:
    as_old = built(fresh, "-o", tmp_path / "s", "--vocabulary", old.url)
    assert as_old.manifest.tokenizer == old.manifest.tokenizer
    assert as_old.manifest.preprocess == {"rule": "squash", "size": [16, 24]}
    larger = built(
        fresh, "-o", tmp_path / "t", "--vocabulary", old.url, "--image-size", "32", "--limit", "2"
    )
    assert larger.manifest.preprocess == {"rule": "squash", "size": [32, 32]}


def test_the_vocabulary_is_part_of_what_a_build_is(
    old: tokenstore.Store, fresh: Path, tmp_path: Path
) -> None:
    words = (fresh, "-o", tmp_path / "s", "--vocabulary", old.url)
    built(*words)
    assert "whole already" in run(*words).stdout
    other = built(flat(tmp_path / "other", a=WHITE), "-o", tmp_path / "o", "--tokenizer", "toy")
    refused = run(*words[:-1], other.url, "--preprocess", "squash", "--image-size", "16x24")
    assert refused.exit_code == 2
    assert "finished store with another" in refused.stderr


def test_another_tokenizer_is_refused(old: tokenstore.Store, fresh: Path, tmp_path: Path) -> None:
    refused = run(fresh, "-o", tmp_path / "s", "--vocabulary", old.url, "--tokenizer", "pocket")
    assert refused.exit_code == 2
    assert "made by the tokenizer 'toy', not by 'pocket'" in refused.stderr
    assert not (tmp_path / "s").exists()


def test_other_weights_and_other_settings_are_refused_with_the_cure(
    old: tokenstore.Store, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (fresh, "-o", tmp_path / "s", "--vocabulary", old.url)
    monkeypatch.setattr(ToyTokenizer, "describe", lambda self: {"codes": 27, "stride": 8})
    refused = run(*words)
    assert (refused.exit_code, "codes 64, found 27" in refused.stderr) == (2, True)
    assert "--config" in refused.stderr
    monkeypatch.setattr(ToyTokenizer, "weights_sha256", "0" * 64)
    refused = run(*words)
    assert (refused.exit_code, "--weights" in refused.stderr) == (2, True)


def test_a_place_without_a_store_is_named(fresh: Path, tmp_path: Path) -> None:
    refused = run(fresh, "-o", tmp_path / "s", "--vocabulary", tmp_path / "nothing")
    assert refused.exit_code == 2
    assert "nothing' is no token store" in refused.stderr

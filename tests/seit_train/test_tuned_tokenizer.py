"""The TokenAdapt that is made of pocket itself, its training, and the one that ships."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from seit_train.augment.base import Codes, Surroundings, View
from seit_train.augment.compose import make_augmentation
from seit_train.augment.geometry import KINDS, pair_warps, warp, warp_pictures
from seit_train.augment.token_adapt import load_adapter, shipped_weights
from seit_train.cli.main import main
from seit_train.fresh_pairs import FreshPairs
from seit_train.launch import TrainRequest, train
from seit_train.metrics import read_metrics
from seit_train.models.cross_entropy import cross_entropy
from seit_train.models.tuned_tokenizer import TunedTokenizer
from seit_train.pairs import PairRequest, keep_pictures, pair_store
from tests.toy_facts import seeded
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import Mismatch, TrainingError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.pocket import package_weights
from tokenstore.verify import verify_store

RUNS = ("run", "again")


@pytest.fixture(scope="module")
def pocket():
    """The tokenizer, for 64x64 pixels."""
    return load_tokenizer("pocket", preprocess=Preprocess("center-crop", (64, 64)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """24 smooth pictures of 64x64."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(24):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8))
        small.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def pairs(pictures, pocket, tmp_path_factory):
    """A store of their pairs."""
    place = tmp_path_factory.mktemp("pairs") / "pairs.tokenstore"
    return pair_store(PairRequest(str(pictures), 7), pocket, place)


def around_of(tokenizer, side=8, **changes):
    made_by = {
        "name": tokenizer.name,
        "config": tokenizer.describe(),
        "weights": tokenizer.weights_sha256,
    }
    codes = Codes({**made_by, **changes}, {}, torch.arange(1024))
    return Surroundings((side, side), torch.from_numpy(tokenizer.codebook), codes)


def soft_pictures(count, side, seed=1):
    """Blots of four pixels."""
    small = torch.rand(count, 3, side // 4, side // 4, generator=seeded(seed))
    fine = torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1)
    return (fine * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


# ------------------------------------------------------------------------------- the model


@torch.no_grad()
def test_untrained_it_says_what_decoding_warping_and_encoding_says(pocket):
    """But for the rounding to uint8 in between, which moves a token now and then."""
    ids, codebook = pocket.encode(soft_pictures(7, 64)), torch.from_numpy(pocket.codebook)
    kinds = torch.arange(7)
    warps = pair_warps(kinds, kinds, (8, 8))
    decoded = torch.from_numpy(pocket.to_uint8(pocket.decode(ids.numpy())))
    expected = pocket.encode(warp_pictures(decoded, warps, (64, 64)))
    model = TunedTokenizer.start(pocket.network, torch.arange(1024))
    adapted = warp(model.adapt(codebook[ids].permute(0, 3, 1, 2)), warps, (64, 64))
    assert (model.restore(adapted).argmax(dim=-1) == expected).float().mean() > 0.95


def test_its_logits_are_of_the_codes_that_it_was_made_for(pocket):
    some = torch.tensor([900, 3, 512])
    model = TunedTokenizer.start(pocket.network, some)
    logits = model.restore(torch.rand(2, 3, 32, 48))
    assert logits.shape == (2, 4, 6, 3) and torch.equal(model.ids, some)
    whole = TunedTokenizer.start(pocket.network, torch.arange(1024))
    picture = torch.rand(2, 3, 64, 64, generator=seeded(2))
    best = whole.restore(picture)[..., some].argmax(dim=-1)
    assert torch.equal(model.restore(picture).argmax(dim=-1), best)


def test_cross_entropy_in_blocks_is_that_of_all_tokens_at_once():
    logits = torch.randn(40, 3, 70_001, generator=seeded(3))
    targets = torch.randint(70_001, (40, 3), generator=seeded(4))
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=0.1
    )
    torch.testing.assert_close(cross_entropy(logits, targets, 0.1).flatten(), expected)


# -------------------------------------------------------------------------------- training


def test_training_keeps_what_it_starts_with_and_its_run_is_found_by_any_grid(pairs, tmp_path):
    words = ("epochs=1",)
    request = TrainRequest("tokenadapt", pairs.url, tmp_path / "run", None, words)
    train(request)
    judged = [line for line in read_metrics(tmp_path / "run") if "val_loss" in line]
    assert judged[-1]["val_exact_identity"] > 0.9
    assert judged[-1]["val_exact_rotation"] > judged[-1]["val_naive_rotation"] + 0.1
    around = around_of(load_tokenizer("pocket"), side=16)
    assert isinstance(load_adapter(str(tmp_path / "run"), around), TunedTokenizer)


def test_other_tokenizers_are_asked_for_the_published_sizes(tmp_path):
    store = write_toy_store(tmp_path / "toy.tokenstore", ToyStore({"train": 40}))
    with pytest.raises(TrainingError, match=r"of pocket, .* of toy.*model="):
        train(TrainRequest("tokenadapt", store.url, tmp_path / "run", None, ()))


def test_fresh_pairs_are_other_ones_each_time_and_the_same_for_one_seed(
    pictures, pocket, pairs, tmp_path
):
    file = tmp_path / "pictures.npy"
    keep_pictures(PairRequest(str(pictures), 7), pocket, file)
    kept, count = np.load(file), len(pairs["train"]) // 7
    assert kept.shape == (count, 64, 64, 3) and not list(tmp_path.glob(".*"))
    entry = pairs.manifest.tokenizer.model_dump(mode="json")
    ids = torch.tensor(pairs.vocabulary.ids).long()
    fresh = FreshPairs(file, 7, None, Codes(entry, dict(pairs.manifest.preprocess), ids))
    index, kinds = torch.tensor([0, 7, 8, 12]), torch.tensor([0, 0, 1, 5])
    (warps, after), (again, same) = (fresh.draw(index, kinds, seeded(5)) for _ in range(2))
    assert torch.equal(warps, again) and torch.equal(after, same)
    other, _ = fresh.draw(index, kinds, seeded(6))
    assert torch.equal(other[:3], warps[:3]) and not torch.equal(other[3], warps[3])
    before = torch.from_numpy(pairs["train"].read(index[:2].numpy()).ranks[:, :8].astype(np.int64))
    assert torch.equal(after[:2], before)  # identity: the ids of the pictures themselves


def test_the_command_makes_fresh_pairs_and_prints_every_kind(pictures, tmp_path):
    words = ["tokenadapt", str(pictures), "-o", str(tmp_path / "run"), "--image-size", "64"]
    words += ["--fresh", "--views", "7", "steps=3", "batch_size=8", "loop.log_every=1"]
    ran = CliRunner().invoke(main, words, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    rows = {line.split()[0]: line.split()[1:] for line in ran.stdout.splitlines() if line}
    assert all(len(rows[kind]) == 3 for kind in KINDS)
    assert rows["identity"][2] == "100.0%" and float(rows["identity"][0]) > 0
    again = [*words[:2], "-o", str(tmp_path / "again"), *words[4:]]
    pictures_file = tmp_path / "run.pairs.tokenstore.pictures.npy"
    assert pictures_file.is_file()
    pairs = ["--pairs", str(tmp_path / "run.pairs.tokenstore")]
    assert CliRunner().invoke(main, [*again, *pairs]).exit_code == 0
    losses = [[line.get("loss") for line in read_metrics(tmp_path / run)] for run in RUNS]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_hundred_images_suffice_to_beat_warped_ids(tmp_path):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(soft_pictures(100, 128).numpy()):
        Image.fromarray(picture).save(tmp_path / f"pictures/{number:03d}.png")
    words = ["tokenadapt", str(tmp_path / "pictures"), "-o", str(tmp_path / "run")]
    ran = CliRunner().invoke(main, [*words, "--image-size", "128"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    last = [line for line in read_metrics(tmp_path / "run") if "val_loss" in line][-1]
    for kind in ("rotation", "translation", "shear", "all"):
        assert last[f"val_exact_{kind}"] > last[f"val_naive_{kind}"] + 0.04
    small = tmp_path / "run/token_adapt.safetensors"
    assert small.stat().st_size <= 4_000_000
    around = around_of(load_tokenizer("pocket"), side=16)
    rows = around.codebook[torch.randint(1024, (1, 16, 16), generator=seeded(1))]
    whole, halved = (
        load_adapter(str(place), around).adapt(rows.permute(0, 3, 1, 2))
        for place in (tmp_path / "run", small)
    )
    torch.testing.assert_close(whole, halved, atol=0.02, rtol=0)


def test_a_store_of_pairs_keeps_every_promise_of_a_store(pairs):
    assert verify_store(pairs.url) == []


# ------------------------------------------------------------------------- the one that ships


def test_the_one_that_ships_is_small_enough_and_of_the_pocket_that_ships():
    size = shipped_weights("pocket").stat().st_size
    assert size <= 4_000_000
    assert size + package_weights().stat().st_size <= 8_000_000
    weights = load_file(shipped_weights("pocket"))
    exact = {"ids": torch.int32, "rows": torch.float32}
    for name, tensor in weights.items():
        assert tensor.dtype == exact.get(name, torch.float16)
    assert sorted(weights["ids"].tolist()) == list(range(1024))


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_it_is_taken_where_no_weights_are_named_for_grids_of_any_size(pocket, side):
    adapt = make_augmentation({"token_adapt": {}}, around_of(pocket, side))
    assert not any(p.requires_grad for p in adapt.parameters())
    rows = torch.from_numpy(pocket.codebook)
    grid = rows[torch.randint(1024, (2, side, side), generator=seeded(7))].permute(0, 3, 1, 2)
    tokens = adapt(View(grid, None), seeded(8)).tokens
    assert tokens.shape == (2, 8, side * 7 // 8, side * 7 // 8)
    flat = tokens.permute(0, 2, 3, 1).reshape(-1, 8)
    away = torch.cdist(flat, rows, compute_mode="donot_use_mm_for_euclid_dist")
    assert away.min(dim=1).values.max() == 0


def test_it_beats_warping_ids_on_pictures_it_has_not_seen(pocket):
    """Drawn ones, which are unlike photos; photos are measured in docs/log.md."""
    pictures = soft_pictures(28, 64, seed=9)
    kinds = torch.arange(7).repeat(4)
    warps = pair_warps(torch.arange(28), kinds, (8, 8))
    before, after = pocket.encode(pictures), pocket.encode(warp_pictures(pictures, warps, (64, 64)))
    model = load_adapter(None, around_of(pocket))
    rows = torch.from_numpy(pocket.codebook)
    adapted = warp(model.adapt(rows[before].permute(0, 3, 1, 2)), warps, (64, 64))
    with torch.no_grad():
        guessed = model.ids[model.restore(adapted).argmax(dim=-1)]
    naive = warp(before[:, None].float(), warps, (8, 8), "nearest")[:, 0].long()
    right, naive_right = (
        (ids == after).float().mean(dim=(1, 2)).view(4, 7).mean(dim=0) for ids in (guessed, naive)
    )
    assert right[0] > 0.97  # identity
    assert (right[1:] > naive_right[1:] + 0.01).all()
    assert right[[2, 3, 6]].mean() > 1.5 * naive_right[[2, 3, 6]].mean()


def test_it_is_refused_for_other_weights_of_pocket_and_for_other_tokenizers(pocket):
    with pytest.raises(Mismatch, match="weights abc.*another code"):
        make_augmentation({"token_adapt": {}}, around_of(pocket, weights="abc"))
    with pytest.raises(TrainingError, match="no TokenAdapt comes .* vit-vqgan.*--tokenizer"):
        make_augmentation({"token_adapt": {}}, around_of(pocket, name="vit-vqgan"))


def test_masks_go_where_the_pictures_go_and_what_comes_from_outside_is_unknown(pocket):
    whole = {"p": 0.0, "flip_p": 1.0, "scale": [1.0, 1.0], "ratio": [1.0, 1.0]}
    masks = torch.randint(3, (2, 64, 64), generator=seeded(5))
    around = around_of(pocket)
    vectors = around.codebook[pocket.encode(soft_pictures(2, 64))].permute(0, 3, 1, 2)
    flip = make_augmentation({"token_adapt": {"size": 8, "geometry": whole}}, around)
    assert flip.keeps_masks
    assert torch.equal(flip(View(vectors, None, masks), seeded(6)).masks, masks.flip(2))
    shifted = {**whole, "p": 1.0, "flip_p": 0.0, "degrees": 0.0, "shear": 0.0, "translate": 0.5}
    shift = make_augmentation({"token_adapt": {"size": 8, "geometry": shifted}}, around)
    moved = shift(View(vectors, None, torch.ones_like(masks)), seeded(7)).masks
    assert set(moved.unique().tolist()) == {-1, 1}
    mixing = make_augmentation({"token_adapt": {"size": 8, "cutmix": 1.0}}, around)
    assert not mixing.keeps_masks

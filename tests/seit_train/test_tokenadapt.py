"""TokenAdapt: its size, its pairs, its training from pictures, and its frozen use."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from seit_train.augment.base import Codes, Surroundings, View
from seit_train.augment.compose import make_augmentation
from seit_train.augment.geometry import KINDS, Geometry, draw_warps, pair_warps, warp
from seit_train.cli.main import main
from seit_train.launch import train
from seit_train.models.token_adapt import TokenAdapt, TokenAdaptConfig
from seit_train.pairs import PairRequest, pair_store, warp_pictures
from tests.toy_facts import make_facts, seeded
from tests.toy_tokenizer import ToyTokenizer
from tokenstore.errors import BuildError, Mismatch, TrainingError
from tokenstore.preprocess import Preprocess

WORDS = ["model.width=32", "model.heads=2", "batch_size=16", "loop.log_every=10"]


def tokenizer(side=32):
    return ToyTokenizer(Preprocess("center-crop", (side, side)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """30 pictures of coloured quarters."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(30):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8))
        small.resize((64, 64), Image.Resampling.NEAREST).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def trained(pictures, tmp_path):
    """A run of two epochs on `pictures`, by the command that users type."""
    words = ["tokenadapt", str(pictures), "-o", str(tmp_path / "run"), "--tokenizer", "toy"]
    ran = CliRunner().invoke(main, [*words, *WORDS, "epochs=2"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return tmp_path / "run"


def around(side=4, ids=64, **changes):
    codes = {"name": "toy", "config": {}, "weights": None, **changes}
    codebook = torch.from_numpy(tokenizer().codebook)[:ids]
    return Surroundings((side, side), codebook, Codes(codes, {}, torch.arange(ids)))


# ------------------------------------------------------------------------------- the model


def test_the_published_size_has_the_weights_that_its_parts_add_up_to():
    model = TokenAdapt(TokenAdaptConfig(), (32, 32), 32, torch.arange(391))
    norms, attention, mlp = 4 * 384, 4 * 384 * 384 + 4 * 384, 8 * 384 * 384 + 5 * 384
    ends = (32 * 384 + 384) + (4 * 32 * 384 + 32) + (4 * 32 * 384 + 384) + (384 * 391 + 391)
    count = sum(p.numel() for p in model.parameters())
    assert count == 2 * (norms + attention + mlp) + ends == 3_810_855
    assert count == pytest.approx(3.7e6, rel=0.04)  # as published


@pytest.mark.parametrize(("grid", "channels"), [((16, 16), 8), ((6, 10), 3)])
def test_sizes_follow_the_grid_and_the_codebook(grid, channels):
    model = TokenAdapt(TokenAdaptConfig(width=16, heads=2), grid, channels, torch.arange(50))
    adapted = model.adapt(torch.zeros(2, channels, *grid))
    assert adapted.shape == (2, channels, 2 * grid[0], 2 * grid[1])
    assert model.restore(adapted[:, :, :8, :4]).shape == (2, 4, 2, 50)


# ------------------------------------------------------------------------------- geometry


def all_kinds(size):
    images = torch.rand(7, 2, *size, generator=seeded(1))
    index = torch.arange(7)
    return images, warp(images, pair_warps(index, index, size), size)


@pytest.mark.parametrize("size", [(8, 8), (6, 12)])
def test_identity_and_flip_move_whole_pixels(size):
    images, warped = all_kinds(size)
    torch.testing.assert_close(warped[0], images[0])
    torch.testing.assert_close(warped[1], images[1].flip(-1))
    assert not any(torch.allclose(images[i], warped[i], atol=0.05) for i in range(2, 7))


def test_each_kind_moves_a_corner_as_its_name_says():
    kinds, index = torch.arange(7).repeat(200), torch.arange(1400)
    warps = pair_warps(index, kinds, (8, 8)).view(200, 7, 3, 3).transpose(0, 1)
    by_kind = dict(zip(KINDS, warps, strict=True))
    turn = by_kind["rotation"][:, :2, :2]
    torch.testing.assert_close(turn @ turn.mT, torch.eye(2).expand(200, 2, 2))
    angles = torch.atan2(turn[:, 1, 0], turn[:, 0, 0]).rad2deg()
    assert 25 < angles.max() <= 30 and -30 <= angles.min() < -25
    shift = by_kind["translation"][:, :2, 2]
    assert 0.35 < shift.abs().max() <= 0.4  # of a side of length 2
    sides = by_kind["crop"].diagonal(dim1=1, dim2=2)[:, :2]
    areas = sides.prod(dim=1)
    assert areas.min() > 0.15 and areas.max() <= 1 and sides.max() <= 1
    places = by_kind["crop"][:, :2, 2].abs() + sides
    assert places.max() <= 1 + 1e-6  # a crop stays inside
    assert by_kind["shear"][:, 0, 1].abs().max() <= np.tan(np.radians(15)) + 1e-6


def test_a_warp_is_the_same_on_pixels_and_on_a_coarser_grid():
    """A smooth picture warped and shrunk is the shrunk picture warped."""
    down, across = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 2, indexing="ij")
    image = torch.stack([down, across, down * across])[None].expand(40, 3, 64, 64)
    inside = torch.ones(40, 1, 64, 64)
    image = torch.cat([image, inside], dim=1)
    index = torch.arange(40)
    warps = pair_warps(index, torch.full_like(index, 6), (64, 64))
    shrink = torch.nn.AvgPool2d(4)
    fine, coarse = shrink(warp(image, warps, (64, 64))), warp(shrink(image), warps, (16, 16))
    whole = (fine[:, 3:] > 0.999) & (coarse[:, 3:] > 0.999)
    assert ((fine - coarse).abs() * whole).max() < 0.03
    assert whole.double().mean() > 0.4


def test_chances_of_drawn_warps_are_those_of_the_geometry():
    geometry = Geometry(scale=(1.0, 1.0), ratio=(1.0, 1.0), p=0.0, flip_p=0.3)
    warps = draw_warps(torch.empty(4000), (8, 8), geometry, seeded(2))
    assert (warps[:, 0, 0] < 0).double().mean() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(warps.abs(), torch.eye(3).expand(4000, 3, 3))


# ---------------------------------------------------------------------------------- pairs


def test_pairs_are_the_tokens_of_a_picture_over_those_of_its_warped_form(pictures, tmp_path):
    from PIL import Image

    store = pair_store(PairRequest(str(pictures)), tokenizer(), tmp_path / "pairs")
    assert len(store["train"]) == 27 * 8 and len(store["val"]) == 3 * 8
    assert store.manifest.classes == KINDS
    image = tokenizer().preprocess(Image.open(pictures / "01.png"))
    for number in range(8, 16):
        sample = store["train"][number]
        kind = min(number - 8, 6)
        assert sample.label == kind
        ids = store.ids(sample.ranks[None])[0]
        assert np.array_equal(ids[:4], tokenizer().encode(image[None])[0])
        warped = warp_pictures(
            torch.from_numpy(image)[None], torch.tensor([number]), torch.tensor([kind])
        )
        assert np.array_equal(ids[4:], tokenizer().encode(warped)[0])
    assert np.array_equal(store["train"][8].ranks[:4], store["train"][8].ranks[4:])


def test_pairs_are_made_once_and_others_are_refused(pictures, tmp_path):
    place = tmp_path / "pairs"
    first = pair_store(PairRequest(str(pictures), limit=20), tokenizer(), place)
    assert len(first["train"]) == 18 * 8
    again = pair_store(PairRequest(str(pictures), limit=20), tokenizer(), place)
    assert again.fingerprint == first.fingerprint
    assert not list(tmp_path.glob("*.building"))
    with pytest.raises(BuildError, match="other pairs"):
        pair_store(PairRequest(str(pictures), limit=21), tokenizer(), place)
    with pytest.raises(BuildError, match="other pairs"):
        pair_store(PairRequest(str(pictures), limit=20), tokenizer(64), place)


# --------------------------------------------------------------------------------- training


def test_training_from_pictures_reports_exact_ids_of_every_kind(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "val_loss" in line][-1]
    for kind in KINDS:
        assert 0 <= last[f"val_exact_{kind}"] <= 1
    assert last["val_naive_identity"] == 1
    assert last["val_naive_flip"] > 0.99  # flat colours are the same in a mirror
    assert "val_loss" in last and lines[-1]["step"] > 20


def test_sheets_show_every_way_beside_the_original(trained):
    from PIL import Image

    geometry = np.asarray(Image.open(trained / "geometry.png"))
    colour = np.asarray(Image.open(trained / "colour.png"))
    assert geometry.shape[1] == 8 + 4 * 136 and colour.shape[1] == 8 + 7 * 136
    flipped = geometry[8:136, 144:272]  # first row: a flip of the pixels, decoded
    assert np.array_equal(flipped, geometry[8:136, 8:136][:, ::-1])
    assert np.array_equal(geometry[8:136, 280:408], flipped)  # flat colours: naive is right
    assert not np.array_equal(colour[8:136, 552:680], colour[8:136, 8:136])  # a channel shifted


def test_a_run_is_used_frozen_and_gives_rows_of_the_codebook(trained):
    adapt = make_augmentation({"token_adapt": {"weights": str(trained), "size": 4}}, around())
    assert not any(p.requires_grad for p in adapt.parameters())
    ids = torch.randint(64, (6, 4, 4), generator=seeded(3))
    rows = torch.from_numpy(tokenizer().codebook)
    grid, targets, _ = adapt(View(rows[ids].permute(0, 3, 1, 2), torch.eye(6)), seeded(4))
    distances = torch.cdist(grid.permute(0, 2, 3, 1).reshape(-1, 3), rows).min(dim=1).values
    assert distances.max() == 0 and grid.shape == (6, 3, 4, 4)
    assert torch.equal(targets, torch.eye(6))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_in_the_adapted_space_mixes_the_targets(trained, mixup, cutmix):
    options = {"weights": str(trained), "mixup": mixup, "cutmix": cutmix}
    adapt = make_augmentation({"token_adapt": options}, around(side=8))
    grid = torch.randn(40, 3, 8, 8, generator=seeded(5))
    targets = adapt(View(grid, torch.eye(40)), seeded(6)).targets
    assert torch.allclose(targets.sum(dim=1), torch.ones(40))
    own = targets.diagonal()
    assert 0.3 < own.mean() < 0.8
    whole = (own * 14 * 14 - (own * 14 * 14).round()).abs() < 1e-4  # a pasted box has an area
    expected = {(0.8, 0.0): (0, 0.4), (0.0, 1.0): (1, 1), (0.8, 1.0): (0.3, 0.9)}[mixup, cutmix]
    assert expected[0] <= whole.double().mean() <= expected[1]


@pytest.mark.parametrize("task", ["classify", "mtm"])
def test_half_of_each_batch_goes_through_it_in_training(trained, request_run, task):
    half = "{token_adapt: {weights: %s, size: 8}}" % trained  # noqa: UP031 (braces of YAML)
    rest = "{random_resized_crop: {size: 8}}"
    frozen = load_file(trained / "checkpoints/best/model.safetensors")
    words = f"augment=[{{halves: {{first: [{half}], rest: [{rest}]}}}}]"
    outcome = train(request_run(task, words, folder="used"))
    assert outcome.steps == 4
    weights = load_file(outcome.run.last / "model.safetensors")
    assert not any("adapt" in name for name in weights)
    again = load_file(trained / "checkpoints/best/model.safetensors")
    assert all(torch.equal(again[name], frozen[name]) for name in frozen)


def test_only_ids_that_the_store_knows_come_out(trained):
    some = around(ids=10)
    adapt = make_augmentation({"token_adapt": {"weights": str(trained)}}, some)
    grid = torch.randn(8, 3, 4, 4, generator=seeded(7)) * 100 + 128
    after = adapt(View(grid, None), seeded(8)).tokens.permute(0, 2, 3, 1).reshape(-1, 3)
    assert torch.cdist(after, some.codebook).min(dim=1).values.max() == 0


def test_one_of_another_tokenizer_is_refused_and_so_is_no_token_adapt_at_all(trained, tmp_path):
    entry = {"token_adapt": {"weights": str(trained)}}
    with pytest.raises(Mismatch, match="trained for tokenizer toy .* made by other"):
        make_augmentation(entry, around(name="other"))
    with pytest.raises(Mismatch, match="weights abc"):
        make_augmentation(entry, around(weights="abc"))
    with pytest.raises(TrainingError, match="holds no weights"):
        make_augmentation({"token_adapt": {"weights": str(tmp_path / "no")}}, around())
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match="holds no TokenAdapt"):
        make_augmentation(
            {"token_adapt": {"weights": str(tmp_path / "other.safetensors")}}, around()
        )
    facts = make_facts(side=4)
    with pytest.raises(TrainingError, match="known tokenizer"):
        make_augmentation(entry, Surroundings((4, 4), facts.codebook))


def test_the_weights_file_says_which_ids_its_logits_are(trained):
    file = next(trained.glob("checkpoints/best/model.safetensors"))
    assert load_file(file)["ids"].tolist() != list(range(len(load_file(file)["ids"])))


# -------------------------------------------------------------------------------- roundtrip


def test_a_roundtrip_gives_the_ids_of_the_augmented_decoded_picture():
    facts = make_facts(side=4, codes=64, width=3)
    ids = torch.randint(64, (20, 4, 4), generator=seeded(1))
    still = {"p": 0.0, "scale": [1.0, 1.0], "ratio": [1.0, 1.0]}
    for flip_p, expected in ((0.0, ids), (1.0, ids.flip(-1))):
        options = {"size": 4, "geometry": {**still, "flip_p": flip_p}}
        augment = make_augmentation({"roundtrip": options}, facts.surroundings)
        assert torch.equal(augment(View(ids, None), seeded(2)).tokens, expected)
    augment = make_augmentation({"roundtrip": {"size": 3}}, facts.surroundings)
    assert augment(View(ids, None), seeded(2)).tokens.shape == (20, 3, 3)


def test_a_roundtrip_with_another_tokenizer_is_refused():
    facts = make_facts(side=4, codes=64, width=3)
    other = {**facts.codes.tokenizer, "weights": "abc"}
    around = Surroundings((4, 4), None, Codes(other, facts.codes.preprocess, facts.codes.ids))
    with pytest.raises(Mismatch, match="made with toy weights abc"):
        make_augmentation({"roundtrip": {}}, around)
    with pytest.raises(TrainingError, match="unknown here"):
        make_augmentation({"roundtrip": {}}, Surroundings((4, 4), None))

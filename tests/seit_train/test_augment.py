"""Each augmentation against its formula, and its chances against their frequencies."""

import json

import numpy as np
import pytest
import torch

from seit_train.augment.base import Codes, Surroundings, View
from seit_train.augment.color_adapt import adapt
from seit_train.augment.compose import make_augmentation
from seit_train.augment.eda import (
    find_synonyms,
    read_synonyms,
    replace_by_synonyms,
    swap_squares,
)
from seit_train.augment.mixing import draw_shares
from seit_train.embed import Codebook
from tests.toy_facts import make_batch, make_facts, seeded
from tokenstore.errors import TrainingError

FACTS = make_facts(side=8)


def make(entry, side=8):
    return make_augmentation(entry, Surroundings((side, side), FACTS.codebook))


def numbered(count, side=8):
    """Ranks in which every position of every image is one of a kind, and one-hot targets."""
    return View(torch.arange(count * side * side).view(count, side, side), torch.eye(count))


# ------------------------------------------------------------------------------ Token-EDA


def test_synonyms_are_the_nearest_codes_without_the_code_itself():
    slow = []
    rows = FACTS.codebook.double().numpy()
    for number, row in enumerate(rows):
        order = np.argsort(((rows - row) ** 2).sum(axis=1), kind="stable")
        slow.append([int(code) for code in order if code != number][:5])
    assert find_synonyms(FACTS.codebook, 5).tolist() == slow


def test_a_duplicate_of_a_code_is_its_first_synonym():
    codebook = torch.cat([FACTS.codebook, FACTS.codebook[:1]])
    assert find_synonyms(codebook, 3)[0, 0] == len(FACTS.codebook)


def test_synonyms_equal_those_of_a_released_table(tmp_path):
    ids = torch.randperm(400, generator=seeded(17))[: len(FACTS.codebook)]
    squares = (FACTS.codebook[:, None] - FACTS.codebook[None]).double().square().sum(dim=2)
    order = squares.fill_diagonal_(torch.inf).argsort(dim=1)[:, :5]
    released = {str(int(ids[rank])): ids[near].tolist() for rank, near in enumerate(order)}
    file = tmp_path / "synonyms.json"
    file.write_text(json.dumps(released))
    around = Surroundings((8, 8), FACTS.codebook, Codes({}, {}, ids))
    given = make_augmentation({"eda": {"table": str(file)}}, around)
    assert torch.equal(given.neighbours, make({"eda": {}}).neighbours)
    without_codebook = Surroundings((8, 8), None, around.codes)
    given = make_augmentation({"eda": {"table": str(file)}}, without_codebook)
    assert torch.equal(given.neighbours, find_synonyms(FACTS.codebook, 5))


def test_synonyms_that_the_store_does_not_have_are_left_out_and_the_next_taken(tmp_path):
    file = tmp_path / "synonyms.json"
    file.write_text('{"7": [5, 9, 8], "8": [7, 5, 9], "9": [8, 5, 7], "5": [7, 8, 9]}')
    assert read_synonyms(file, torch.tensor([9, 7, 8]), 2).tolist() == [[2, 1], [0, 2], [1, 0]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"7": [9], "9": [5]}', "lists 0 of id 9 that this store has"),
        ('{"7": [9]}', "lists 0 of id 9"),
        ("[[1, 2]]", "no synonyms.json"),
        ('{"7": 9}', "no synonyms.json"),
        ("oh", "no synonyms.json"),
    ],
)
def test_a_table_of_synonyms_that_does_not_serve_the_store_is_refused(tmp_path, text, words):
    file = tmp_path / "synonyms.json"
    file.write_text(text)
    with pytest.raises(TrainingError, match=words):
        read_synonyms(file, torch.tensor([7, 9]), 1)


def test_replaced_ranks_are_synonyms_and_as_many_as_asked():
    ranks = make_batch(FACTS, 500).ranks
    synonyms = find_synonyms(FACTS.codebook, 5)
    replaced = replace_by_synonyms(ranks, synonyms, 0.25, seeded(1))
    changed = replaced != ranks
    assert changed.double().mean() == pytest.approx(0.25, abs=0.01)
    which = (synonyms[ranks[changed]] == replaced[changed][:, None]).int()
    assert which.sum(dim=1).eq(1).all()
    assert which.double().mean(dim=0).tolist() == pytest.approx([0.2] * 5, abs=0.02)


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (2, 6)])
def test_swapped_squares_are_two_of_one_size_and_nothing_else_moves(size):
    ranks = torch.arange(200 * size[0] * size[1]).view(200, *size)
    swapped = swap_squares(ranks, 2, seeded(2))
    sides = set()
    for before, after in zip(ranks, swapped, strict=True):
        moved = before != after
        row, column = moved.nonzero()[0].tolist()
        side = round(float(moved.sum() / 2) ** 0.5)
        square = np.s_[row : row + side, column : column + side]
        there = (before == after[row, column]).nonzero()[0].tolist()
        other = np.s_[there[0] : there[0] + side, there[1] : there[1] + side]
        assert torch.equal(after[square], before[other])
        assert torch.equal(after[other], before[square])
        assert moved.sum() == 2 * side * side  # so they do not overlap
        assert moved[square].all() and moved[other].all()
        sides.add(side)
    assert sides <= {1, 2} and 1 in sides


def test_both_squares_of_a_swap_come_to_every_place():
    swapped = swap_squares(torch.arange(36).view(1, 6, 6).expand(3000, 6, 6), 2, seeded(3))
    share = (swapped != torch.arange(36).view(6, 6)).double().mean(dim=0)
    assert share.min() > 0.03
    assert (share - share.flip(0)).abs().max() < 0.05
    assert (share - share.T).abs().max() < 0.05


@pytest.mark.parametrize("longest", [1, 3, 8])
def test_a_swap_loses_and_invents_no_rank(longest):
    ranks = make_batch(make_facts(side=32), 300).ranks
    swapped = swap_squares(ranks, longest, seeded(4))
    assert torch.equal(swapped.flatten(1).sort().values, ranks.flatten(1).sort().values)


def test_an_image_without_room_for_two_squares_stays_as_it_is():
    ranks = torch.arange(8).view(2, 2, 2)
    for seed in range(20):
        swapped = swap_squares(ranks, 2, seeded(seed))
        assert torch.equal(swapped.flatten(1).sort().values, ranks.flatten(1))


def test_an_image_gets_synonyms_or_a_swap_or_neither_as_often_as_asked():
    ranks = make_batch(FACTS, 4000).ranks
    eda = make({"eda": {"synonym_p": 0.25, "swap_p": 0.4, "replace_p": 1.0}})
    after = eda(View(ranks, None), seeded(0)).tokens
    changed = (after != ranks).double().mean(dim=(1, 2))
    assert (changed == 1).double().mean() == pytest.approx(0.25, abs=0.02)
    assert (changed == 0).double().mean() == pytest.approx(0.35, abs=0.04)


# ---------------------------------------------------------------------------------- CutMix


def test_targets_mix_by_the_area_that_was_pasted():
    view = numbered(300)
    mixed, targets, _ = make({"cutmix": {}})(view, seeded(5))
    owner = mixed // 64
    area = torch.stack([(owner == image).double().mean(dim=(1, 2)) for image in range(300)], dim=1)
    assert torch.allclose(targets.double(), area, atol=1e-6)
    assert 0.2 < 1 - targets.diagonal().mean() < 0.5


def test_a_pasted_box_keeps_its_place_and_is_a_rectangle():
    view = numbered(50)
    mixed, _, _ = make({"cutmix": {}})(view, seeded(6))
    assert torch.equal(mixed % 64, view.tokens % 64)
    for image, own in enumerate(mixed // 64):
        pasted = own != image
        assert torch.equal(pasted, pasted.any(dim=1)[:, None] & pasted.any(dim=0))


def test_cutmix_of_ranks_and_of_their_vectors_is_the_same():
    batch, codebook = make_batch(FACTS, 30), Codebook(FACTS.codebook, "cosine")
    cutmix = make({"cutmix": {"alpha": 0.5}})
    ranks = cutmix(View(batch.ranks, torch.eye(30)), seeded(7))
    grids = cutmix(View(codebook(batch.ranks), torch.eye(30)), seeded(7))
    assert torch.equal(codebook(ranks.tokens), grids.tokens)
    assert torch.equal(ranks.targets, grids.targets)


def test_images_are_left_alone_as_often_as_asked():
    _, targets, _ = make({"cutmix": {"p": 0.3}}, side=32)(numbered(1000, 32), seeded(8))
    assert (targets.diagonal() == 1).double().mean() == pytest.approx(0.7, abs=0.06)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(alpha):
    shares = draw_shares(alpha, torch.zeros(40000), seeded(9))
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


# ----------------------------------------------------------------------- Mixup, centre crop


def test_mixup_blends_vectors_and_targets_by_one_share():
    grids = torch.eye(50)[:, :, None, None].expand(50, 50, 4, 4)  # channel i is image i
    mixed, targets, _ = make({"mixup": {"alpha": 0.8}})(View(grids, torch.eye(50)), seeded(15))
    assert torch.allclose(mixed.mean(dim=(2, 3)), targets, atol=1e-6)
    assert mixed.std(dim=(2, 3)).max() < 1e-6
    own = targets.diagonal()[(targets > 0).sum(dim=1) == 2]
    assert 0.35 < own.mean() < 0.65 and own.std() > 0.2


def test_mixup_leaves_images_alone_as_often_as_asked():
    grids = torch.zeros(1000, 1, 2, 2)
    _, targets, _ = make({"mixup": {"p": 0.3}})(View(grids, torch.eye(1000)), seeded(16))
    assert (targets.diagonal() == 1).double().mean() == pytest.approx(0.7, abs=0.05)


def test_centre_crop_is_what_evaluation_sees():
    view = numbered(3)
    assert torch.equal(make({"center_crop": {}})(view, seeded(0)).tokens, view.tokens[:, :7, :7])
    cropped = make({"center_crop": {"size": [4, 6]}})(view, seeded(0)).tokens
    assert torch.equal(cropped, view.tokens[:, 2:6, 1:7])


# ------------------------------------------------------------------- Emb-Noise, ColorAdapt


def test_noise_has_one_part_a_channel_and_one_an_element():
    grid = torch.zeros(400, 6, 8, 8)
    noise = make({"emb_noise": {"p": 1.0}})(View(grid, None), seeded(10)).tokens
    channel = noise.mean(dim=(2, 3))
    assert channel.var().item() == pytest.approx(1 + 1 / 64, rel=0.06)
    assert (noise - channel[..., None, None]).var().item() == pytest.approx(63 / 64, rel=0.02)


def test_noise_falls_on_as_many_images_as_asked_and_scales():
    grid = torch.zeros(2000, 2, 8, 8)
    noise = make({"emb_noise": {"p": 0.3, "deviation": 0.1}})(View(grid, None), seeded(11)).tokens
    noisy = noise.flatten(1).count_nonzero(dim=1) > 0
    assert noisy.double().mean() == pytest.approx(0.3, abs=0.03)
    assert noise[noisy].std().item() == pytest.approx(0.1 * 2**0.5, rel=0.05)


def test_adapted_colours_follow_the_formula_of_adain():
    grid = torch.randn(4, 3, 5, 5, generator=seeded(12)).double()
    grid *= torch.tensor([1.0, 3.0, 0.5, 7.0]).view(4, 1, 1, 1)
    grid += torch.tensor([0.0, 1.0, -9.0, 2.0]).view(4, 1, 1, 1)
    donors = [1, 3, 0, 3]
    fast = adapt(grid, torch.tensor(donors))
    for image, donor in enumerate(donors):
        for channel in range(3):
            x, y = grid[image, channel], grid[donor, channel]
            slow = y.std() * (x - x.mean()) / x.std() + y.mean()
            assert torch.allclose(fast[image, channel], slow, atol=1e-3)


def test_a_channel_without_spread_takes_over_the_mean():
    grid = torch.stack([torch.ones(1, 4, 4), torch.arange(16.0).view(1, 4, 4)])
    assert torch.allclose(adapt(grid, torch.tensor([1, 1]))[0], torch.tensor(7.5))


def test_some_images_take_over_the_statistics_of_one_other():
    grid = torch.randn(300, 4, 8, 8, generator=seeded(13)) * torch.rand(300, 1, 1, 1) + torch.rand(
        300, 1, 1, 1
    )
    adapted = make({"color_adapt": {"p": 0.4}})(View(grid, None), seeded(14)).tokens
    means, before = adapted.mean(dim=(2, 3)), grid.mean(dim=(2, 3))
    donor = torch.cdist(means, before).argmin(dim=1)
    assert torch.allclose(means, before[donor], atol=1e-4)
    assert (donor != torch.arange(300)).double().mean() == pytest.approx(0.4, abs=0.07)

"""Policies: read from recipes, made for a store, run in order."""

import pytest
import torch
import yaml

from seit_train.augment.base import Surroundings
from seit_train.augment.compose import Policy, parse_entry, written
from seit_train.config import read_recipe, recipe_text
from seit_train.embed import Codebook
from tests.toy_facts import make_batch, make_facts, seeded
from tokenstore.errors import TrainingError, UnknownName, UsageError

FACTS = make_facts(side=16)
BATCH = make_batch(FACTS, 6)
TARGETS = torch.eye(6)
SEIT = [{"eda": {}}, {"random_resized_crop": {}}, {"emb_noise": {}}, {"cutmix": None}]


def make(entries, output="grid", codebook=FACTS.codebook):
    embed = None if codebook is None else Codebook(codebook, "cosine")
    return Policy(entries, Surroundings((16, 16), codebook), embed, output)


def test_the_published_policy_makes_vectors_of_seven_eighths_of_the_grid():
    policy = make(SEIT)
    view = policy(BATCH.ranks, TARGETS, seeded(0))
    assert view.tokens.shape == (6, 6, 14, 14)
    assert policy.size == (14, 14)
    assert torch.allclose(view.targets.sum(dim=1), torch.ones(6))


def test_vectors_turn_back_into_the_nearest_ranks_where_the_model_takes_ranks():
    grid = make(SEIT)(BATCH.ranks, TARGETS, seeded(0)).tokens
    ranks = make(SEIT, "ranks")(BATCH.ranks, TARGETS, seeded(0)).tokens
    assert torch.equal(ranks, Codebook(FACTS.codebook, "cosine").nearest(grid))


def test_without_a_step_ranks_go_through_or_are_embedded():
    assert torch.equal(make([], "ranks")(BATCH.ranks, None, seeded(0)).tokens, BATCH.ranks)
    embedded = make([])(BATCH.ranks, None, seeded(0)).tokens
    assert torch.equal(embedded, Codebook(FACTS.codebook, "cosine")(BATCH.ranks))


def test_evaluation_sees_the_centre_in_the_size_and_space_of_training():
    assert torch.equal(make(SEIT, "ranks").plain(BATCH.ranks), BATCH.ranks[:, 1:15, 1:15])
    middle = Codebook(FACTS.codebook, "cosine")(BATCH.ranks[:, 1:15, 1:15])
    assert torch.equal(make(SEIT).plain(BATCH.ranks), middle)


def test_ranks_that_a_plain_crop_leaves_are_never_embedded_and_searched():
    policy = make([{"random_crop": {"size": 8}}, {"cutmix": {}}], "ranks", codebook=None)
    assert policy(BATCH.ranks, TARGETS, seeded(0)).tokens.shape == (6, 8, 8)


def test_autocast_around_a_policy_does_not_blur_it():
    expected = make(SEIT)(BATCH.ranks, TARGETS, seeded(0)).tokens
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(make(SEIT)(BATCH.ranks, TARGETS, seeded(0)).tokens, expected)


def test_one_of_draws_for_the_whole_batch_and_as_often_as_asked():
    entry = {
        "one_of": {"p": [0.5, 0.2], "of": [{"emb_noise": {"p": 1}}, {"color_adapt": {"p": 1}}]}
    }
    policy, plain = make([entry]), Codebook(FACTS.codebook, "cosine")(BATCH.ranks)
    found = {"none": 0, "noise": 0, "colours": 0}
    for seed in range(400):
        grid = policy(BATCH.ranks, None, seeded(seed)).tokens
        if torch.equal(grid, plain):
            found["none"] += 1
        else:
            # A partner may be the image itself, so a channel mean is looked for among all images.
            gap = torch.cdist(grid.mean(dim=(2, 3)), plain.mean(dim=(2, 3))).min(dim=1).values
            found["colours" if gap.max() < 1e-3 else "noise"] += 1
    assert found["noise"] / 400 == pytest.approx(0.5, abs=0.07)
    assert found["colours"] / 400 == pytest.approx(0.2, abs=0.06)


def test_halves_give_each_part_of_the_batch_its_own_policy():
    entry = {
        "halves": {
            "share": 0.34,
            "first": [{"center_crop": {}}],
            "rest": [{"random_resized_crop": {}}, {"mixup": {}}],
        }
    }
    policy, plain = make([entry]), Codebook(FACTS.codebook, "cosine")(BATCH.ranks)
    assert policy.size == (14, 14)
    grid, targets, _ = policy(BATCH.ranks, TARGETS, seeded(1))
    assert torch.equal(grid[:2], plain[:2, :, 1:15, 1:15])
    assert torch.equal(targets[:2], TARGETS[:2])
    assert not targets[2:, :2].any() and (targets[2:].max(dim=1).values < 1).any()
    assert policy(BATCH.ranks, None, seeded(1)).targets is None


def test_a_policy_is_printed_as_the_recipe_wrote_it():
    for recipe in ("seit_vitb_in1k", "seitpp_vitb_mtm", "cpu_tiny"):
        policy = read_recipe(recipe, "classify")["augment"]
        text = written(policy)
        assert yaml.safe_load(text) == policy
        assert len(text.splitlines()) == len(policy)
    line = "- eda: {synonym_p: 0.25, swap_p: 0.25, replace_p: 0.25, synonyms: 5, side: 0.25}"
    recipe = "seit_vitb_in1k"
    assert written(read_recipe(recipe, "classify")["augment"]).splitlines()[0] == line
    assert line in recipe_text(recipe)
    assert written([{"cutmix": None}]) == "- cutmix: {}"


def test_a_printed_policy_shows_every_option():
    text = repr(make(SEIT))
    assert "Eda(synonym_p=0.25, swap_p=0.25" in text
    assert "CutMix(alpha=1.0, p=1.0)" in text


@pytest.mark.parametrize(
    ("entry", "error", "words"),
    [
        ({"cutmixx": {}}, UnknownName, "Did you mean cutmix"),
        ({"cutmix": {"alfa": 1}}, UnknownName, "Did you mean alpha"),
        ({"cutmix": {"alpha": 0}}, UsageError, "alpha"),
        ({"cutmix": {}, "eda": {}}, UsageError, "one name with its options"),
        ({"cutmix": 0.5}, UsageError, "one name with its options"),
        ({"random_resized_crop": {"scale": [1.0, 0.1]}}, UsageError, "smallest, largest"),
        ({"eda": {"synonym_p": 0.6, "swap_p": 0.6}}, UsageError, "more than 1"),
        ({"one_of": {"p": [0.5], "of": []}}, UsageError, "one_of"),
        ({"one_of": {"p": [0.5], "of": [{"nothing": {}}]}}, UnknownName, "nothing"),
    ],
)
def test_a_mistake_in_a_policy_is_named_with_its_cure(entry, error, words):
    with pytest.raises(error, match=words):
        parse_entry(entry)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"random_resized_crop": {}}, {"eda": {}}], "eda works on ranks"),
        ([{"random_crop": {"size": 17}}], "17x17 does not fit a grid of 16x16"),
        ([{"random_resized_crop": {"size": 20}}], "20x20 does not fit a grid of 16x16"),
        ([{"eda": {"synonyms": 40}}], "only 40 codes"),
        ([{"halves": {"first": [{"eda": {}}], "rest": []}}], "stands before halves"),
        ([{"halves": {"first": [{"center_crop": {}}], "rest": []}}], "14x14 in the first"),
        ([{"one_of": {"p": [1.0], "of": [{"random_crop": {}}]}}], "RandomCrop is none"),
    ],
)
def test_a_policy_that_cannot_work_on_this_store_is_refused(entries, words):
    with pytest.raises(TrainingError, match=words):
        make(entries)


@pytest.mark.parametrize("entry", [{"eda": {}}, {"random_resized_crop": {}}, {"emb_noise": {}}])
def test_what_needs_a_codebook_says_so_where_there_is_none(entry):
    with pytest.raises(TrainingError, match=r"no codebook|this store has none"):
        make([entry], "ranks", codebook=None)

"""A plan is a pure function of listing, options and versions; its hash changes when bytes could."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.toy_tokenizer import ToyTokenizer
from tokenstore.build import plan as planning
from tokenstore.build.plan import BuildOptions, Plan, differences, make_plan
from tokenstore.errors import UsageError
from tokenstore.preprocess import Preprocess
from tokenstore.sources.base import Item, Listing
from tokenstore.vocabulary import Vocabulary

TOY = ToyTokenizer(Preprocess("center-crop", (32, 32)))
OPTIONS = BuildOptions(tokenizer="toy", part_size=4)


def listing(train: int = 10, val: int = 3) -> Listing:
    splits = {"train": train, "val": val}
    return Listing(
        {
            s: tuple(Item(f"k{i}", f"{s}/k{i}.jpg", 0, 7) for i in range(n))
            for s, n in splits.items()
        },
        ("only",),
    )


def plan(options: BuildOptions = OPTIONS, listed: Listing | None = None) -> Plan:
    return make_plan("image-folder", listed or listing(), TOY, options)


def keys(made: Plan, split: str = "train") -> list[str]:
    return [item.key for item in made.listing.splits[split]]


def test_the_same_input_and_options_give_the_same_plan() -> None:
    assert plan().as_json() == plan().as_json()


@pytest.mark.parametrize(
    "change",
    [
        {"codec": "gzip"},
        {"batch_size": 8},
        {"device": "cuda"},
        {"precision": "bf16"},
        {"part_size": 5},
        {"limit": 9},
        {"seed": 1},
        {"order": "input"},
        {"keys": False},
        {"tokenizer": "other"},
    ],
)
def test_every_option_that_can_change_bytes_changes_the_hash(change: dict[str, object]) -> None:
    assert plan(replace(OPTIONS, **change)).hash != plan().hash


def test_another_input_resolution_or_version_changes_the_hash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    squashed = ToyTokenizer(Preprocess("squash", (32, 32)))
    hashes = {
        plan().hash,
        plan(listed=listing(train=11)).hash,
        make_plan("image-folder", listing(), squashed, OPTIONS).hash,
    }
    monkeypatch.setattr(planning, "LOCKED", ("numpy",))
    assert len(hashes | {plan().hash}) == 4


def test_the_vocabulary_that_is_taken_over_changes_the_hash() -> None:
    def taken(*ids: int) -> Plan:
        vocabulary = Vocabulary(np.array(ids, np.int32), np.ones(len(ids), np.int64))
        return make_plan("image-folder", listing(), TOY, OPTIONS, vocabulary)

    assert len({plan().hash, taken(1, 2).hash, taken(2, 1).hash}) == 3
    assert taken(1, 2).hash == taken(1, 2).hash


def test_the_number_of_a_gpu_is_not_part_of_the_plan() -> None:
    assert (
        plan(replace(OPTIONS, device="cuda:1")).hash == plan(replace(OPTIONS, device="cuda")).hash
    )


def test_parts_are_neighbours_of_the_final_order_and_do_not_cross_splits() -> None:
    made = plan()
    parts = list(made.parts())
    assert [(part.name, len(part.items)) for part in parts] == [
        ("train-000000", 4),
        ("train-000001", 4),
        ("train-000002", 2),
        ("val-000000", 3),
    ]
    assert [item.key for part in parts[:3] for item in part.items] == keys(made)


def test_the_shuffled_order_is_a_permutation_that_depends_on_seed_and_split() -> None:
    listed = listing(train=100, val=100)
    made, other = plan(listed=listed), plan(replace(OPTIONS, seed=1), listed)
    in_order = [f"k{i}" for i in range(100)]
    assert sorted(keys(made)) == sorted(in_order)
    assert (
        len(
            {tuple(in_order), *(tuple(keys(p, s)) for p in (made, other) for s in ("train", "val"))}
        )
        == 5
    )


def test_a_shuffled_place_depends_on_no_other_image() -> None:
    few, many = keys(plan(listed=listing(train=50))), keys(plan(listed=listing(train=100)))
    assert [key for key in many if key in few] == few


def test_the_input_order_is_kept_when_asked_for() -> None:
    assert keys(plan(replace(OPTIONS, order="input"))) == [f"k{i}" for i in range(10)]


def test_limit_takes_the_first_images_of_each_split_in_the_final_order() -> None:
    made = plan(replace(OPTIONS, limit=4))
    assert keys(made) == keys(plan())[:4]
    assert made.images() == 4 + 3


def test_the_plan_file_says_its_hash_and_what_it_covers() -> None:
    written = json.loads(plan().as_json())
    assert written["hash"] == plan().hash
    assert written["splits"] == {"train": 10, "val": 3}
    assert written["versions"].keys() == set(planning.LOCKED)


def test_differences_name_what_changed_and_both_values() -> None:
    found = differences(plan(replace(OPTIONS, seed=1)).facts, json.loads(plan().as_json()))
    assert found == ["seed: 1, was 0"]


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="part_size is 0; it must be at least 1"):
        plan(replace(OPTIONS, part_size=0))

"""Where a loader stands, as it comes from a file: right, or refused with the cure."""

import json

import pytest

from tokenstore.errors import Mismatch, UsageError
from tokenstore.loader_state import LoaderState

STATE = LoaderState(epoch=3, position=40, seed=-5, fingerprint="ab" * 32)


@pytest.mark.parametrize(
    "state",
    [
        STATE,
        LoaderState(0, 0, 2**80, "cd" * 32, order="Unshuffled(size=3)"),
        LoaderState(1, 2, 3, "ef", worker=(1, 3)),
    ],
)
def test_a_state_comes_back_from_json(state):
    assert LoaderState.from_json(json.loads(json.dumps(state.as_json()))) == state


def test_a_shuffle_of_the_whole_split_has_four_members():
    assert list(STATE.as_json()) == ["epoch", "position", "seed", "fingerprint"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": -1}, "-1 as its epoch"),
        ({"position": "40"}, "'40' as its position"),
        ({"position": True}, "True as its position"),
        ({"position": None}, "None as its position"),
        ({"position": 1.0}, "1.0 as its position"),
        ({"seed": "x" * 500}, "'xxx.*[.][.][.] as its seed"),
        ({"fingerprint": 7}, "7 as its fingerprint"),
        ({"order": 1}, "1 as its order"),
        ({"worker": 1}, "1 as its worker"),
        ({"worker": [1]}, r"\[1\] as its worker"),
        ({"worker": [3, 3]}, r"\[3, 3\] as its worker"),
        ({"mixture": {}}, "has 'mixture'.*version of tokenstore that wrote it"),
    ],
)
def test_a_malformed_state_is_refused_by_its_member(change, words):
    with pytest.raises(UsageError, match=words):
        LoaderState.from_json({**STATE.as_json(), **change})


@pytest.mark.parametrize("state", [None, [], "{}", {}, {"epoch": 1, "position": 2}])
def test_what_is_no_state_is_told_what_one_needs(state):
    with pytest.raises(UsageError, match="needs epoch, position, seed, fingerprint"):
        LoaderState.from_json(state)


@pytest.mark.parametrize(
    ("mine", "images", "words"),
    [
        ({"fingerprint": "cd" * 32}, 100, "Resume with the store of the run"),
        ({"seed": 1}, 100, "seed=-5 to resume"),
        ({"order": "Unshuffled(size=3)"}, 100, "shuffle and sampler of the run"),
        ({}, 39, "position 40 .* 39 images"),
    ],
)
def test_another_order_is_refused_with_the_cure(mine, images, words):
    with pytest.raises(Mismatch, match=words):
        STATE.refuse_other(LoaderState(**{**STATE.as_json(), **mine}), images)


def test_a_state_at_the_end_of_an_epoch_is_fine():
    STATE.refuse_other(STATE, 40)

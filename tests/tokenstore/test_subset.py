"""Which samples: by class, by key, and a share that is chosen once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import UnknownName, UsageError
from tokenstore.subset import (
    read_scores,
    samples_of_classes,
    samples_of_keys,
    samples_of_share,
)


class Labelled:
    """As much of a split as a share needs."""

    name = "fake"

    def __init__(self, labels, count=None):
        self.labels = labels
        self.count = len(labels) if labels is not None else count

    def __len__(self):
        return self.count


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subset") / "s"
    return write_toy_store(folder, ToyStore({"train": 60, "val": 0}))["train"]


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subset") / "u"
    return write_toy_store(folder, ToyStore({"train": 20}, classes=0))["train"]


def test_classes_are_chosen_by_name(train):
    samples = samples_of_classes(train, ["class3", "class1"])
    assert samples.tolist() == [i for i, label in enumerate(train.labels) if label in (1, 3)]
    with pytest.raises(UnknownName, match="Did you mean class1"):
        samples_of_classes(train, ["clas1"])


def test_classes_need_labels(unlabelled):
    with pytest.raises(UsageError, match="no labels"):
        samples_of_classes(unlabelled, ["class1"])


def test_keys_are_found_wherever_they_stand(train):
    keys = train.keys(np.arange(60))
    assert samples_of_keys(train, [keys[41], keys[3]]).tolist() == [3, 41]
    with pytest.raises(UsageError, match="lacks 2 of 3 keys: class9/a, class9/b"):
        samples_of_keys(train, [keys[0], "class9/b", "class9/a"])


def test_an_empty_split_has_no_keys_to_find(train):
    assert samples_of_keys(train.store["val"], []).tolist() == []


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=200).map(np.array),
    st.floats(0.01, 1),
    st.integers(0, 2**40),
)
def test_a_share_has_the_classes_in_proportion(labels, share, seed):
    wanted = round(share * len(labels))
    if not wanted:
        with pytest.raises(UsageError, match="less than one image"):
            samples_of_share(Labelled(labels), share, seed)
        return
    samples = samples_of_share(Labelled(labels), share, seed)
    assert len(samples) == len(set(samples.tolist())) == wanted
    assert np.array_equal(samples, np.sort(samples))
    for one, count in zip(*np.unique(labels, return_counts=True), strict=True):
        assert abs((labels[samples] == one).sum() - share * count) < 2


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(2, 20), st.integers(0, 2**40), st.data())
def test_equal_classes_get_equal_shares(classes, each, seed, data):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), each))
    taken = data.draw(st.integers(1, each))
    samples = samples_of_share(Labelled(labels), taken / each, seed)
    assert np.bincount(labels[samples], minlength=classes).tolist() == [taken] * classes


def test_a_smaller_share_is_a_part_of_a_larger_one():
    split = Labelled(np.random.default_rng(1).integers(0, 9, 500))
    shares = [set(samples_of_share(split, s, 4).tolist()) for s in (0.1, 0.3, 0.31, 0.6, 1)]
    assert all(small < large for small, large in itertools.pairwise(shares))
    assert [len(share) for share in shares] == [50, 150, 155, 300, 500]


def test_every_image_is_about_as_likely_to_be_chosen_in_small_classes_too():
    labels = np.repeat([0, 1, 2], [3, 7, 20])
    chosen = np.zeros(30)
    for seed in range(2000):
        chosen[samples_of_share(Labelled(labels), 0.3, seed)] += 1
    # Standard deviation sqrt(2000 * 0.3 * 0.7) = 20.5. Three classes must round to 9 images in
    # all, which leaves the smallest with 7% more than its share.
    assert np.abs(chosen - 600).max() < 120
    assert abs(chosen[:3].mean() - 600) < 60


def test_without_labels_a_share_is_a_plain_random_one():
    samples = samples_of_share(Labelled(None, 1000), 0.25, 0)
    assert len(samples) == 250
    assert abs(samples.mean() - 500) < 60
    other = samples_of_share(Labelled(None, 1000), 0.25, 1)
    assert len(set(samples.tolist()) & set(other.tolist())) < 100


def test_the_share_of_old_runs_never_changes():
    labels = np.tile(np.arange(4), 5)
    assert samples_of_share(Labelled(labels), 0.4, 0).tolist() == [3, 5, 8, 9, 10, 15, 16, 18]


@pytest.mark.parametrize("share", [0, -1, 1.01, float("nan")])
def test_a_share_outside_is_refused(share):
    with pytest.raises(UsageError, match="above 0 and at or below 1"):
        samples_of_share(Labelled(np.zeros(4, int)), share, 0)


class Scored(Labelled):
    """Samples whose keys are their numbers."""

    def keys(self, numbers):
        return [str(number) for number in numbers]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=80),
    st.floats(0.3, 1),
    st.integers(0, 2**40),
)
def test_scores_choose_the_highest_of_each_class_and_the_seed_among_equal_ones(rows, share, seed):
    labels, values = (np.array(column) for column in zip(*rows, strict=True))
    scores = {str(number): float(value) for number, value in enumerate(values)}
    chosen = samples_of_share(Scored(labels), share, seed, scores)
    plain = samples_of_share(Scored(labels), share, seed)
    assert np.array_equal(np.sort(labels[chosen]), np.sort(labels[plain]))
    left = np.setdiff1d(np.arange(len(labels)), chosen)
    for one in set(labels[chosen].tolist()) & set(labels[left].tolist()):
        assert (
            values[chosen][labels[chosen] == one].min() >= values[left][labels[left] == one].max()
        )


def test_equal_scores_leave_the_choice_to_the_seed():
    labels = np.random.default_rng(1).integers(0, 3, 90)
    equal = {str(number): 0.5 for number in range(90)}
    for seed in (0, 1):
        expected = samples_of_share(Scored(labels), 0.3, seed)
        assert samples_of_share(Scored(labels), 0.3, seed, equal).tolist() == expected.tolist()


def test_a_split_is_chosen_from_by_the_scores_of_its_keys(train, unlabelled):
    keys = train.keys(np.arange(60))
    scores = {key: float(number) for number, key in enumerate(keys)} | {"of another store": 9.0}
    chosen = samples_of_share(train, 1 / 3, 0, scores)
    labels = train.labels
    for one in range(int(labels.max()) + 1):
        own = np.flatnonzero(labels == one)
        taken = chosen[labels[chosen] == one]
        assert taken.tolist() == own[len(own) - len(taken) :].tolist()
    del scores[keys[7]], scores[keys[5]]
    with pytest.raises(UsageError, match=f"lack 2 of the 60 images of split 'train': {keys[5]}, "):
        samples_of_share(train, 0.5, 0, scores)


def test_scores_need_keys():
    split = Scored(np.zeros(4, np.int64))
    split.keys = lambda numbers: None
    with pytest.raises(UsageError, match="keeps no keys"):
        samples_of_share(split, 0.5, 0, {"0": 1.0})


def test_scores_are_read_from_a_table(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text('key,label,score\n"church/a, b",0,0.25\ntench/c,1,-1e-3\n')
    assert read_scores(str(file)) == {"church/a, b": 0.25, "tench/c": -0.001}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name,score\na,1\n", "columns name, score"),
        ("", "of no table"),
        ("key,score\na,1\na,2\n", "line 3: 'a,2'"),
        ("key,score\na,nan\n", "line 2: 'a,nan'"),
        ("key,score\na,high\n", "line 2: 'a,high'"),
        ("key,score\na\n", "line 2: 'a,None'"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path, text, complaint):
    file = tmp_path / "scores.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_scores(str(file))


def test_scores_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_scores(str(tmp_path / "none.csv"))

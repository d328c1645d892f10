"""Pictures as batches: each once an epoch, alike on any number of processes, resumable."""

import numpy as np
import pytest
import torch
from PIL import Image

from seit_train.data import iterate
from seit_train.distributed import World
from seit_train.pictures import Feed, PictureLoader, open_pictures
from seit_train.tasks.pixels import PixelsConfig, evaluation_transform, training_transform
from tests.pictures import write_pictures
from tokenstore.errors import Mismatch, TrainingError
from tokenstore.order import Shuffled, Unshuffled

CPU = torch.device("cpu")
CONFIG = PixelsConfig(task="pixels", steps=1, batch_size=8, lr=1.0, image_size=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), {"train": 20, "val": 6})


def loader(folder, rank=0, size=1, *, last=True, workers=0, seed=0):
    split = open_pictures(str(folder)).splits["train"]
    order = Shuffled(len(split), seed) if last else Unshuffled(len(split))
    transform = training_transform(CONFIG) if last else evaluation_transform(CONFIG)
    feed = Feed(transform, order, 8, seed, last, workers)
    return PictureLoader(split, feed, World(rank, size, CPU))


def seen(some, epochs=1):
    return [
        (batch.index.tolist(), batch.ranks, batch.labels, batch.valid)
        for _ in range(epochs)
        for batch in iterate(some)
    ]


def test_batches_are_full_shuffled_crops_with_the_labels_of_their_folders(folder):
    some = loader(folder)
    batches = seen(some, epochs=2)
    assert len(some) == 2 and len(batches) == 4
    assert all(images.shape == (8, 3, 32, 32) for _, images, _, _ in batches)
    assert batches[0][1].dtype == torch.uint8
    first, second = (batches[i][0] + batches[i + 1][0] for i in (0, 2))
    assert len(set(first)) == 16 and first != second
    labels = some.split.labels
    assert all(labels[index].tolist() == found.tolist() for index, _, found, _ in batches)


def test_evaluation_shows_every_picture_once(folder):
    batches = seen(loader(folder, last=False))
    valid = np.concatenate([np.array(index)[v.numpy()] for index, _, _, v in batches])
    assert valid.tolist() == list(range(20))


def test_two_processes_share_the_batches_of_one(folder):
    whole = {}
    for index, images, _, _ in seen(loader(folder)):
        whole |= dict(zip(index, images, strict=True))
    for rank in range(2):
        for index, images, _, _ in seen(loader(folder, rank, 2)):
            assert len(index) == 4
            assert all(torch.equal(whole[i], image) for i, image in zip(index, images, strict=True))


def test_a_resumed_loader_sees_the_pictures_it_would_have_seen(folder):
    whole, cut = loader(folder), loader(folder)
    expected = seen(whole, epochs=2)
    next(iter(cut))
    again = loader(folder)
    again.load_state_dict(cut.state_dict())
    for (index, images, *_), (found, others, *_) in zip(
        expected[1:], seen(again, epochs=2), strict=False
    ):
        assert index == found and torch.equal(images, others)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_change_no_pixel(folder):
    for (index, images, *_), (found, others, *_) in zip(
        seen(loader(folder)), seen(loader(folder, workers=1)), strict=True
    ):
        assert index == found and torch.equal(images, others)


def test_the_state_of_another_folder_is_refused(folder, tmp_path):
    other = loader(write_pictures(tmp_path / "other", {"train": 12}))
    with pytest.raises(Mismatch, match="fingerprint"):
        other.load_state_dict(loader(folder).state_dict())


def test_a_broken_picture_is_named(tmp_path):
    folder = write_pictures(tmp_path / "broken", {"train": 8})
    victim = next((folder / "train").rglob("*.png"))
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(TrainingError, match=rf"{victim.name}' cannot be used.*Mend it"):
        seen(loader(folder))


def test_evaluation_looks_at_the_middle(tmp_path):
    image = Image.new("RGB", (64, 37), "red")
    found = evaluation_transform(CONFIG)(image)
    assert found.shape == (3, 32, 32)
    assert found[0].min() == 255 and found[1].max() == 0

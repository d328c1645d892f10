"""A user's folder becomes train and val, whatever its layout, without touching the images."""

import pytest
from PIL import Image

from pipelines.demo.own_images import NoImages, original, with_val
from pipelines.demo.picture import Pair, pairs
from pipelines.prepare.links import OtherLayout


def photos(folder, *names):
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), "teal").save(place)
    return folder


def listed(folder):
    return {
        split: sorted(p.name for p in (folder / split).rglob("*.*")) for split in ("train", "val")
    }


def test_a_folder_with_a_val_split_is_used_as_it_is(tmp_path):
    mine = photos(tmp_path / "mine", "train/a/1.jpg", "val/a/2.jpg")
    assert with_val(mine, tmp_path / "links") == mine
    assert not (tmp_path / "links").exists()


def test_each_class_keeps_a_seeded_share_for_val(tmp_path):
    names = [f"{kind}/{i:02d}.jpg" for kind in ("cat", "dog") for i in range(20)]
    mine = photos(tmp_path / "mine", *names)
    corpus = with_val(mine, tmp_path / "links")
    for kind in ("cat", "dog"):
        train = {p.name for p in (corpus / "train" / kind).iterdir()}
        val = {p.name for p in (corpus / "val" / kind).iterdir()}
        assert len(train) == 17 and len(val) == 3 and not train & val
    key = f"dog/{min(val).removesuffix('.jpg')}"
    assert original(corpus, "val", key).resolve() == (mine / f"{key}.jpg").resolve()
    first = listed(corpus)
    assert listed(with_val(mine, tmp_path / "links")) == first
    assert listed(with_val(mine, tmp_path / "others", seed=1)) != first


def test_links_to_other_images_are_not_taken_for_these(tmp_path):
    """Two folders of one name share the demo's place."""
    names = [f"cat/{i}.jpg" for i in range(10)]
    mine, yours = (photos(tmp_path / who / "photos", *names) for who in ("mine", "yours"))
    with_val(mine, tmp_path / "links")
    with pytest.raises(OtherLayout, match="links to other images"):
        with_val(yours, tmp_path / "links")
    linked = next((tmp_path / "links").rglob("*.jpg"))
    assert linked.resolve().is_relative_to(mine)


def test_a_train_folder_without_val_is_split_too(tmp_path):
    mine = photos(tmp_path / "mine", *[f"train/cat/{i}.jpg" for i in range(10)])
    found = listed(with_val(mine, tmp_path / "links"))
    assert len(found["train"]) == 9 and len(found["val"]) == 1


def test_a_plain_folder_stays_without_classes(tmp_path):
    mine = photos(tmp_path / "mine", "sub/0.jpg", *[f"{i}.jpg" for i in range(1, 10)])
    corpus = with_val(mine, tmp_path / "links")
    assert any(path.is_symlink() for path in (corpus / "train").iterdir())


def test_a_large_folder_is_cut_to_what_the_demo_can_use(tmp_path):
    mine = photos(tmp_path / "mine", *[f"{kind}/{i}.png" for kind in "ab" for i in range(40)])
    found = listed(with_val(mine, tmp_path / "links", most=40))
    assert sum(map(len, found.values())) == 40


@pytest.mark.parametrize("names", [(), ("one.jpg",)])
def test_too_few_images_are_refused_with_a_reason(tmp_path, names):
    mine = photos(tmp_path / "mine", *names)
    mine.mkdir(exist_ok=True)
    with pytest.raises(NoImages, match="too few images"):
        with_val(mine, tmp_path / "links")


def test_the_picture_holds_every_pair(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    pair = Pair(tmp_path / "a.png", tmp_path / "b.png", "a, 900 bytes")
    two, three = pairs([pair] * 2), pairs([pair] * 3)
    assert three.width == two.width and three.height > two.height

"""What an image folder lists: splits, labels, keys and order, for every layout that it knows."""

import json
import os
from pathlib import Path

import pytest

from tests.toy_images import encoded, picture, write_corpus
from tokenstore.errors import ImageRejected, SourceError
from tokenstore.sources import open_source
from tokenstore.sources.base import Item, Listing, SourceOptions
from tokenstore.sources.image_folder import ImageFolder


def touch(root: Path, *names: str) -> Path:
    """Files of one byte: listing looks at no content."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def listing(root: Path, classes: Path | None = None) -> Listing:
    return ImageFolder.open(str(root), SourceOptions(classes)).listing()


def keys(found: Listing, split: str = "train") -> list[str]:
    return [item.key for item in found.splits[split]]


def test_class_folders_are_one_labelled_split(tmp_path: Path) -> None:
    found = listing(touch(tmp_path, "pear/b.jpg", "apple/a.JPEG", "apple/c.png"))
    assert found.classes == ("apple", "pear")
    assert found.splits["train"] == (
        Item("apple/a", "apple/a.JPEG", 0, 1),
        Item("apple/c", "apple/c.png", 0, 1),
        Item("pear/b", "pear/b.jpg", 1, 1),
    )


def test_split_folders_share_the_union_of_their_classes(tmp_path: Path) -> None:
    found = listing(touch(tmp_path, "train/b/1.jpg", "val/a/2.jpg", "test/c/3.jpg"))
    assert found.classes == ("a", "b", "c")
    assert {s: [i.label for i in items] for s, items in found.splits.items()} == {
        "train": [1],
        "val": [0],
        "test": [2],
    }
    assert found.splits["val"][0] == Item("a/2", "val/a/2.jpg", 0, 1)


def test_a_plain_folder_has_neither_labels_nor_classes(tmp_path: Path) -> None:
    found = listing(touch(tmp_path, "b.webp", "a.bmp"))
    assert found.classes is None
    assert found.splits["train"] == (Item("a", "a.bmp", None, 1), Item("b", "b.webp", None, 1))


def test_a_split_without_class_folders_is_label_less_beside_a_labelled_one(tmp_path: Path) -> None:
    found = listing(touch(tmp_path, "train/a/1.jpg", "test/2.jpg"))
    assert found.splits["test"][0].label is None
    assert found.splits["train"][0].label == 0


def test_an_empty_split_is_legal_beside_a_full_one(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    found = listing(touch(tmp_path, "train/a/1.jpg"))
    assert found.splits["val"] == ()


def test_nested_folders_belong_to_their_class_and_stay_in_the_key(tmp_path: Path) -> None:
    found = listing(touch(tmp_path, "a/x/y/1.jpg", "a/2.jpg", "b/3.jpg"))
    assert keys(found) == ["a/2", "a/x/y/1", "b/3"]
    assert [item.label for item in found.splits["train"]] == [0, 0, 1]


def test_images_beside_sub_folders_cost_the_labels_and_a_note_says_so(tmp_path: Path) -> None:
    found = listing(touch(tmp_path, "a/1.jpg", "b/2.jpg", "stray.jpg"))
    assert keys(found) == ["a/1", "b/2", "stray"]
    assert found.classes is None
    assert "1 of its 3 images lie beside its sub-folders, e.g. 'stray.jpg'" in found.notes[0]


def test_hidden_and_other_files_are_not_listed(tmp_path: Path) -> None:
    names = ("a/.hidden.jpg", ".cache/1.jpg", "a/notes.txt", "a/1.jpg.part", "a/jpg", "docs/x.md")
    found = listing(touch(tmp_path, "a/1.JpG", *names))
    assert keys(found) == ["a/1"]
    assert found.classes == ("a",)


def test_the_key_loses_only_its_last_suffix(tmp_path: Path) -> None:
    assert keys(listing(touch(tmp_path, "v1.2/a.b.jpg"))) == ["v1.2/a.b"]


def test_the_later_of_two_files_with_one_key_is_a_reject(tmp_path: Path) -> None:
    found = listing(touch(tmp_path, "a/1.png", "a/1.jpg", "a/2.jpg"))
    assert [item.path for item in found.splits["train"]] == ["a/1.jpg", "a/2.jpg"]
    assert [reject.path for reject in found.rejects] == ["a/1.png"]
    assert "a/1.jpg" in found.rejects[0].reason


def test_undecodable_bytes_of_a_name_are_percent_escaped(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(encoded(picture(0)))
    source = ImageFolder.open(str(tmp_path))
    found = source.listing()
    assert keys(found) == ["x/caf%E9"]
    assert source.load(found.splits["train"][0]).size == (40, 32)


def test_order_is_that_of_the_bytes_of_the_names(tmp_path: Path) -> None:
    found = listing(touch(tmp_path, "a/é.jpg", "a/z.jpg", "a/Z.jpg", "a/10.jpg", "a/9.jpg"))
    assert keys(found) == ["a/10", "a/9", "a/Z", "a/z", "a/é"]


@pytest.mark.parametrize(
    "content",
    [
        {"classes": [{"index": 1, "name": "a"}, {"index": 0, "name": "b", "wnid": "n1"}]},
        {"classes": ["b", "a"]},
        ["b", "a"],
    ],
)
def test_classes_json_gives_the_order(tmp_path: Path, content: object) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "classes.json").write_text(json.dumps(content))
    found = listing(tmp_path)
    assert found.classes == ("b", "a")
    assert [item.label for item in found.splits["train"]] == [1, 0]


def test_a_class_file_given_by_the_user_wins_over_the_one_inside(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a/1.jpg", "b/2.jpg")
    (tmp_path / "in" / "classes.json").write_text('["b", "a"]')
    (tmp_path / "own.json").write_text('["a", "b", "c"]')
    assert listing(tmp_path / "in", tmp_path / "own.json").classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "{}",
        "5",
        '"abc"',
        '["a", "a"]',
        '["a", 1]',
        '{"classes": [{"index": 1, "name": "a"}]}',
        '{"classes": [{"index": 0}]}',
        '{"classes": [{"index": 0, "name": "a"}, "b"]}',
    ],
)
def test_a_damaged_class_file_is_refused_with_the_expected_form(
    tmp_path: Path, content: str
) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(SourceError, match="class file"):
        listing(tmp_path)


def test_a_class_folder_that_is_not_declared_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "classes.json").write_text('["a", "c"]')
    with pytest.raises(SourceError, match=r"folder 'b' .* none of the 2 classes declared"):
        listing(tmp_path)


def test_split_folders_beside_other_images_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.jpg", "car/2.jpg")
    with pytest.raises(SourceError, match="holds train/ and also 'car'"):
        listing(tmp_path)
    (tmp_path / "classes.json").write_text('["train", "car"]')
    assert listing(tmp_path).classes == ("train", "car")


def test_other_folders_without_images_do_not_disturb_split_folders(tmp_path: Path) -> None:
    found = listing(touch(tmp_path, "train/a/1.jpg", "docs/readme.txt"))
    assert list(found.splits) == ["train"]


def test_a_folder_without_images_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path, "a/readme.txt")
    with pytest.raises(SourceError, match=r"no images in .*\.bmp, \.jpeg, \.jpg, \.png, \.webp"):
        listing(tmp_path)


def test_links_are_followed_also_out_of_the_folder(tmp_path: Path) -> None:
    touch(tmp_path / "all", "x.jpg", "many/y.jpg")
    subset = touch(tmp_path / "subset", "a/own.jpg")
    (subset / "a" / "linked.jpg").symlink_to(tmp_path / "all" / "x.jpg")
    (subset / "b").symlink_to(tmp_path / "all" / "many")
    assert keys(listing(subset)) == ["a/linked", "a/own", "b/y"]


def test_a_link_to_a_folder_above_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    with pytest.raises(SourceError, match="contains it"):
        listing(tmp_path)


def test_a_broken_link_is_listed_and_rejected_when_it_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = ImageFolder.open(str(tmp_path))
    gone = next(item for item in source.listing().splits["train"] if item.key == "a/gone")
    with pytest.raises(ImageRejected, match="cannot be read"):
        source.load(gone)


def test_an_unreadable_folder_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    def scan(folder: str | Path) -> object:
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(SourceError, match=r"b' cannot be read: Permission denied"):
        listing(tmp_path)


def test_a_file_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "photo.jpg")
    with pytest.raises(SourceError, match="no corpus that is known here"):
        open_source(str(tmp_path / "photo.jpg"))
    with pytest.raises(SourceError, match="does not exist"):
        open_source(str(tmp_path / "missing"))
    with pytest.raises(SourceError, match="is no folder"):
        open_source(str(tmp_path / "photo.jpg"), kind="image-folder")


def test_the_listing_does_not_depend_on_where_the_corpus_lies(tmp_path: Path) -> None:
    hashes = {
        listing(write_corpus(tmp_path / place, {"train": 3, "val": 2})).sha256()
        for place in ("here", "there")
    }
    assert len(hashes) == 1

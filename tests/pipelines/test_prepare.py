"""Corpora as they are unpacked become folders of links in which each image has its class."""

import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines.prepare import finegrained, imagenet, own
from pipelines.prepare.imagenet import synset_by_image
from pipelines.prepare.links import OtherLayout
from tests.pipelines import corpora
from tests.pipelines.corpora import COLOURS, SYNSETS, write_imagenet


def prepare(module, *words):
    ran = CliRunner().invoke(module.main, [str(word) for word in words], catch_exceptions=False)
    return ran.exit_code, ran.output


def places(folder):
    """Where all images of a prepared corpus lie, without the suffix; links are followed."""
    found = [path.relative_to(folder) for path in folder.glob("*/*/*.*")]
    return sorted(str(path.with_suffix("")) for path in found)


def class_by_colour(file):
    with Image.open(file) as image:
        mean = np.asarray(image, np.float64).mean((0, 1))
    return min(COLOURS, key=lambda number: ((mean - COLOURS[number]) ** 2).sum())


def test_flat_validation_images_come_to_the_synsets_of_the_devkit(tmp_path):
    corpus = write_imagenet(tmp_path / "imagenet", train=2)
    assert prepare(imagenet, corpus, "-o", tmp_path / "images")[0] == 0
    files = sorted((tmp_path / "images" / "val").glob("*/*.JPEG"))
    assert len(files) == 8
    for file in files:  # the colour is the class, in train and in val
        assert class_by_colour(file) == SYNSETS[file.parent.name]
    assert len(list((tmp_path / "images" / "train").glob("*/*.JPEG"))) == 8


def test_without_a_devkit_the_table_of_kaggle_tells_the_synsets(tmp_path):
    corpus = write_imagenet(tmp_path / "imagenet", train=1)
    expected = synset_by_image(corpus)
    shutil.rmtree(corpus / "ILSVRC2012_devkit_t12")
    data = corpus / "ILSVRC" / "Data" / "CLS-LOC"
    data.mkdir(parents=True)
    for split in ("train", "val"):
        (corpus / split).rename(data / split)
    rows = [f"{name},{synset} 1 2 3 4 {synset} 5 6 7 8" for name, synset in expected.items()]
    (corpus / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows))
    assert synset_by_image(corpus) == expected
    assert prepare(imagenet, corpus, "-o", tmp_path / "images")[0] == 0
    assert len(places(tmp_path / "images")) == 12


def test_validation_images_in_synset_folders_need_no_devkit(tmp_path):
    corpus = write_imagenet(tmp_path / "imagenet", train=1)
    for name, synset in synset_by_image(corpus).items():
        (corpus / "val" / synset).mkdir(exist_ok=True)
        (corpus / "val" / f"{name}.JPEG").rename(corpus / "val" / synset / f"{name}.JPEG")
    shutil.rmtree(corpus / "ILSVRC2012_devkit_t12")
    assert prepare(imagenet, corpus, "-o", tmp_path / "images")[0] == 0
    assert len(places(tmp_path / "images")) == 12


def test_a_list_of_synsets_takes_these_only(tmp_path):
    corpus = write_imagenet(tmp_path / "imagenet", train=2)
    (tmp_path / "two.txt").write_text("n01440764 tench\n\nn02395406\n")
    words = ("--synsets", tmp_path / "two.txt", "-o", tmp_path / "images")
    assert prepare(imagenet, corpus, *words)[0] == 0
    for split in ("train", "val"):
        found = {path.name for path in (tmp_path / "images" / split).iterdir()}
        assert found == {"n01440764", "n02395406"}
    (tmp_path / "two.txt").write_text("n00000001\n")
    code, told = prepare(imagenet, corpus, *words[:2], "-o", tmp_path / "others")
    assert code == 2 and "no folder n00000001" in told


def test_flat_validation_images_without_ground_truth_are_refused(tmp_path):
    corpus = write_imagenet(tmp_path / "imagenet", train=1)
    shutil.rmtree(corpus / "ILSVRC2012_devkit_t12")
    code, told = prepare(imagenet, corpus, "-o", tmp_path / "images")
    assert code == 2
    assert "Unpack the devkit there" in told
    assert not (tmp_path / "images" / "complete").exists()


def test_a_corpus_that_was_half_made_is_made_anew(tmp_path):
    corpus = write_imagenet(tmp_path / "imagenet", train=1)
    (tmp_path / "images.making" / "train" / "n_old").mkdir(parents=True)
    assert prepare(imagenet, corpus, "-o", tmp_path / "images")[0] == 0
    assert not (tmp_path / "images" / "train" / "n_old").exists()
    code, told = prepare(imagenet, corpus, "-o", tmp_path / "images")
    assert code == 0 and "12 links" in told


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    corpus = write_imagenet(tmp_path / "imagenet", train=1)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "thesis.tex").write_text("years of work")
    code, told = prepare(imagenet, corpus, "-o", tmp_path / "images")
    assert code == 2 and "not made by this command. Choose another -o" in told
    assert (tmp_path / "images" / "thesis.tex").exists()


def test_a_folder_of_another_corpus_is_not_taken_for_this_one(tmp_path):
    flowers = corpora.write_flowers(tmp_path / "flowers")
    cars = corpora.write_cars(tmp_path / "cars")
    images = tmp_path / "images"
    assert prepare(finegrained, "flowers", flowers, "-o", images)[0] == 0
    code, told = prepare(finegrained, "cars", cars, "-o", images)
    assert code == 2 and "has links to other images than the 4 found now" in told
    assert len(places(images)) == 6


def test_another_list_of_synsets_asks_for_another_folder(tmp_path):
    corpus = write_imagenet(tmp_path / "imagenet", train=2)
    (tmp_path / "list.txt").write_text("n01440764\n")
    words = (corpus, "--synsets", tmp_path / "list.txt", "-o", tmp_path / "images")
    assert prepare(imagenet, *words)[0] == 0
    (tmp_path / "list.txt").write_text("n02395406\n")
    code, told = prepare(imagenet, *words)
    assert code == 2 and "links to other images" in told


def test_flowers_learn_from_train_and_val_and_are_judged_on_test(tmp_path):
    corpus = corpora.write_flowers(tmp_path / "flowers")
    assert prepare(finegrained, "flowers", corpus, "-o", tmp_path / "images")[0] == 0
    assert places(tmp_path / "images") == [
        "train/005/image_00003",
        "train/005/image_00006",
        "train/077/image_00001",
        "train/077/image_00002",
        "val/005/image_00004",
        "val/077/image_00005",
    ]


def test_cars_come_from_the_lists_of_the_devkit(tmp_path):
    corpus = corpora.write_cars(tmp_path / "cars")
    assert prepare(finegrained, "cars", corpus, "-o", tmp_path / "images")[0] == 0
    expected = ["train/014/00001", "train/015/00002", "val/014/00001", "val/015/00002"]
    assert places(tmp_path / "images") == expected


@pytest.mark.parametrize("year", [2018, 2019])
def test_inaturalist_comes_from_its_json(year, tmp_path):
    corpus = corpora.write_inaturalist(tmp_path / "inat", year)
    assert prepare(finegrained, f"inat{year % 100}", corpus, "-o", tmp_path / "images")[0] == 0
    expected = [f"{split}/0240{i}/{split}{i}" for split in ("train", "val") for i in range(2)]
    assert places(tmp_path / "images") == expected


def test_a_name_that_leaves_the_folder_is_refused(tmp_path):
    corpus = corpora.write_inaturalist(tmp_path / "inat", 2018)
    text = (corpus / "val2018.json").read_text().replace("train_val2018/Aves", "../../Aves", 1)
    (corpus / "val2018.json").write_text(text)
    code, told = prepare(finegrained, "inat18", corpus, "-o", tmp_path / "images")
    assert code == 2 and "leaves" in told


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(OtherLayout, match=r"no cars_test_annos_withlabels\.mat nor devkit"):
        (tmp_path / "devkit").mkdir()
        (tmp_path / "devkit" / "cars_train_annos.mat").touch()
        list(finegrained.cars(tmp_path))


def test_own_images_get_a_val_split_and_those_with_one_keep_it(tmp_path):
    corpus = write_imagenet(tmp_path / "imagenet")
    (corpus / "train" / "notes.txt").write_text("no image")
    code, told = prepare(own, corpus / "train", "-o", tmp_path / "images")
    assert code == 0 and "left out 1 files that are no images" in told
    assert len(list((tmp_path / "images" / "train").glob("*/*.JPEG"))) == 28
    assert len(list((tmp_path / "images" / "val").glob("*/*.JPEG"))) == 4
    assert prepare(own, tmp_path / "images", "-o", tmp_path / "again")[0] == 0
    assert len(places(tmp_path / "again")) == 32

"""Small corpora laid out as the published ones are when they are unpacked."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

# Sorted by name, but the devkit numbers them otherwise, as the real one does.
SYNSETS = {"n01440764": 3, "n01443537": 1, "n02119789": 4, "n02395406": 2}
COLOURS = {1: (200, 40, 40), 2: (40, 200, 40), 3: (40, 40, 200), 4: (180, 180, 60)}


def picture(colour, seed, size=(40, 36)):
    """A noisy picture of one colour."""
    noise = np.random.default_rng(seed).integers(-30, 30, (size[1], size[0], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def save(image, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    image.save(place)


def write_imagenet(folder: Path, train: int = 8, val: int = 8) -> Path:
    """train/SYNSET/*.JPEG, val/*.JPEG and the devkit; the colour of a picture is its class."""
    for synset, number in SYNSETS.items():
        for i in range(train):
            file = folder / "train" / synset / f"{synset}_{i}.JPEG"
            save(picture(COLOURS[number], 10 * number + i), file)
    truth = [1 + (3 * i + i // 4) % 4 for i in range(val)]
    for i, number in enumerate(truth, 1):
        file = folder / "val" / f"ILSVRC2012_val_{i:08d}.JPEG"
        save(picture(COLOURS[number], 1000 + i), file)
    data = folder / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in truth))
    # Behind the 1,000 classes meta.mat lists the synsets above them, of other sizes.
    rows = sorted((number, synset) for synset, number in SYNSETS.items())
    rows.append((1001, "n00001740"))
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("children", "O")]
    synsets = np.empty((len(rows), 1), dtype=fields)
    for place, (number, synset) in enumerate(rows):
        synsets[place, 0] = (number, synset, f"word of {synset}", np.arange(place))
    savemat(data / "meta.mat", {"synsets": synsets})
    return folder


def write_ade20k(folder: Path, training: int = 16, validation: int = 4) -> Path:
    """ADEChallengeData2016 in small: colours say which of four classes a block of pixels is."""
    for split, count in (("training", training), ("validation", validation)):
        for i in range(count):
            rng = np.random.default_rng(1000 * len(split) + i)
            blocks = rng.integers(0, 5, (3, 3)).astype(np.uint8)  # 0 is "other"
            mask = blocks.repeat(16, 0).repeat(16, 1)
            name = f"ADE_{split[:5]}_{i + 1:08d}"
            pixels = np.array([(90, 90, 90), *COLOURS.values()], np.uint8)[mask]
            save(Image.fromarray(pixels), folder / "images" / split / f"{name}.jpg")
            save(Image.fromarray(mask), folder / "annotations" / split / f"{name}.png")
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [f"{i}\t0.1\t1\t1\t0\tclass {i}" for i in range(1, 151)]
    (folder / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_flowers(folder: Path) -> Path:
    """Flowers: jpg/, imagelabels.mat and setid.mat."""
    for i in range(1, 7):
        save(picture(COLOURS[1 + i % 2], i), folder / "jpg" / f"image_{i:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": [[77, 77, 5, 5, 77, 5]]})
    savemat(folder / "setid.mat", {"trnid": [[1, 3]], "valid": [[2, 6]], "tstid": [[4, 5]]})
    return folder


def write_cars(folder: Path) -> Path:
    """Cars: two folders of pictures, and their lists in devkit/ and beside it."""
    fields = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    lists = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    (folder / "devkit").mkdir(parents=True)
    for split, file in lists.items():
        rows = np.empty((1, 2), dtype=fields)
        for i in range(2):
            save(picture(COLOURS[1 + i], i), folder / f"cars_{split}" / f"{i + 1:05d}.jpg")
            rows[0, i] = (3, 14 + i, f"{i + 1:05d}.jpg")
        savemat(folder / file, {"annotations": rows})
    return folder


def write_inaturalist(folder: Path, year: int) -> Path:
    """iNaturalist: pictures by kingdom and class, and a JSON for each split."""
    for number, split in enumerate(("train", "val")):
        images, annotations = [], []
        for i in range(2):
            name = f"train_val{year}/Aves/{2400 + i}/{split}{i}.jpg"
            save(picture(COLOURS[1 + i], i), folder / name)
            images.append({"id": 10 * number + i, "file_name": name})
            annotations.append({"image_id": 10 * number + i, "category_id": 2400 + i})
        text = json.dumps({"images": images, "annotations": annotations})
        (folder / f"{split}{year}.json").write_text(text)
    return folder

"""npy: arrays and folders of arrays, LlamaGen's layout, and what is refused."""

import io
import json

import numpy as np
import pytest

import tokenstore
from tokenstore.errors import BuildError, SourceError, UsageError
from tokenstore.interop.arrays import read_npy
from tokenstore.interop.base import ImportRequest
from tokenstore.interop.importing import ImportOptions, import_store
from tokenstore.verify import verify_store

IDS = np.random.default_rng(0).integers(0, 40, (9, 4, 4))


def bring_in(place, store, keys=True, **request):
    import_store("npy", ImportRequest(place, **request), store, ImportOptions(keys=keys))
    return tokenstore.open(store)


def ids_of(store, split="train"):
    return store.ids(store[split].read(np.arange(len(store[split]))).ranks)


def saved(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, array)
    return file


# --- one array


@pytest.mark.parametrize(
    "dtype", ["u1", "i2", "<u2", ">u2", "i4", "<i8", ">i8", "u8"], ids=lambda name: f"dtype {name}"
)
def test_an_array_of_any_whole_type_becomes_a_store(tmp_path, dtype):
    store = bring_in(saved(tmp_path / "x.npy", IDS.astype(dtype)), tmp_path / "s")
    assert np.array_equal(ids_of(store), IDS)
    assert verify_store(tmp_path / "s") == []
    assert store.codebook is None
    assert store["train"].columns == ("ranks",)
    assert store.manifest.splits["train"].source_bytes == 0


@pytest.mark.parametrize(
    ("array", "grid", "expected"),
    [
        (IDS.reshape(9, 16), None, (4, 4)),
        (IDS.reshape(9, 16), (2, 8), (2, 8)),
        (IDS.reshape(9, 1, 16), (4, 4), (4, 4)),
        (IDS.reshape(9, 2, 8), None, (2, 8)),
        (IDS.reshape(9, 4, 2, 2), None, (4, 2, 2)),
        (IDS.reshape(9, 16), (4, 2, 2), (4, 2, 2)),
        (np.asfortranarray(IDS), None, (4, 4)),
    ],
)
def test_the_grid_is_that_of_the_array_or_the_one_that_is_asked_for(
    tmp_path, array, grid, expected
):
    store = bring_in(saved(tmp_path / "x.npy", array), tmp_path / "s", grid=grid)
    assert store.manifest.grid == expected
    assert np.array_equal(ids_of(store).ravel(), IDS.ravel())
    assert verify_store(tmp_path / "s") == []


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".json"])
@pytest.mark.parametrize("names", [False, True])
def test_labels_are_numbers_or_names_of_classes(tmp_path, suffix, names):
    labels = [2, 0, 1, 2, 0, 1, 2, 0, 2]
    given = [("pear", "fig", "apple")[label] for label in labels] if names else labels
    file = tmp_path / f"labels{suffix}"
    if suffix == ".npy":
        np.save(file, given)
    else:
        lines = "\n".join(map(str, given)) + "\n"
        file.write_text(json.dumps(given) if suffix == ".json" else lines)
    store = bring_in(saved(tmp_path / "x.npy", IDS), tmp_path / "s", labels=file)
    found = store["train"].labels.tolist()
    assert store.manifest.classes == (("apple", "fig", "pear") if names else ("0", "1", "2"))
    assert found == ([0, 2, 1, 0, 2, 1, 0, 2, 0] if names else labels)


@pytest.mark.parametrize("kind", ["npy", "safetensors", "torch", "safetensors with ids"])
def test_a_codebook_comes_from_any_of_its_files(tmp_path, kind):
    import safetensors.numpy
    import torch

    rows = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    file = tmp_path / {"npy": "c.npy", "torch": "c.ckpt"}.get(kind, "c.safetensors")
    order = np.random.default_rng(2).permutation(40)
    if kind == "npy":
        np.save(file, rows.astype(np.float64))
    elif kind == "torch":
        torch.save(torch.tensor(rows), file)
    elif kind == "safetensors":
        safetensors.numpy.save_file({"weight": rows}, file)
    else:
        safetensors.numpy.save_file({"codebook": rows[order], "ids": order}, file)
    store = bring_in(saved(tmp_path / "x.npy", IDS), tmp_path / "s", codebook=file)
    assert np.array_equal(store.codebook, rows[store.vocabulary.ids])


def spoilt(array, place, value):
    copy = array.astype(np.int64)
    copy[place] = value
    return copy


@pytest.mark.parametrize(
    ("array", "request_", "words"),
    [
        (spoilt(IDS, (5, 1, 2), -1), {}, r"x.npy', image 5: id -1 at \[1, 2\]"),
        (spoilt(IDS, (8, 0, 0), 2**40), {}, r"image 8: id 1099511627776 .* expected 0 to 1048575"),
        (IDS.astype(np.float32), {}, "holds float32, expected ids"),
        (IDS > 3, {}, "holds bool, expected ids"),
        (IDS.astype(object), {}, "Python objects or records"),
        (IDS[0, 0], {}, r"is \[4\], expected ids \[images, rows, columns\]"),
        (IDS[:0], {}, r"is \[0, 4, 4\]"),
        (IDS[0], {}, r"is \[4, 4\]: one image, or 4 of 4 ids"),
        (IDS.reshape(12, 12), {}, "12 of 12 ids each"),
        (IDS.reshape(18, 8), {}, "8 ids an image, which is no square. Say how they lie"),
        (IDS, {"grid": (3, 5)}, "16 ids an image are no grid 3x5"),
    ],
)
def test_an_array_that_holds_no_ids_is_refused(tmp_path, array, request_, words):
    file = tmp_path / "x.npy"
    np.save(file, array, allow_pickle=True)
    with pytest.raises(SourceError, match=words) as refused:
        bring_in(file, tmp_path / "s", **request_)
    assert str(file) in str(refused.value)
    assert not (tmp_path / "s").exists()


def test_damaged_arrays_are_refused(tmp_path):
    file = saved(tmp_path / "x.npy", IDS)
    whole = file.read_bytes()
    for content in (whole[:-8], whole[:60], b"", b"PK\3\4" + whole, whole[:8] + b"\xff\xff"):
        file.write_bytes(content)
        with pytest.raises(SourceError, match=r"x\.npy"):
            bring_in(file, tmp_path / "s")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1\n2\n", "has 2 labels, the input 9 images"),
        ("1\n" * 8 + "-3\n", "label -3 of image 8"),
        ("1\n" * 8 + "1.5\n", "a list of int and str, expected class numbers only"),
        ("1\n" * 8 + "\n", "a list of int and str"),
        ("a\n" * 8 + "\n", "none empty"),
        ("[1, 2", "no UTF-8 list of labels"),
        ('["a", 1]', "a list of int and str"),
        ('{"a": 1}', "holds dict"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, content, words):
    file = tmp_path / ("l.json" if content[0] in "[{" else "l.txt")
    file.write_text(content)
    saved(tmp_path / "x.npy", IDS)
    with pytest.raises(SourceError, match=words):
        bring_in(tmp_path / "x.npy", tmp_path / "s", labels=file)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros((40, 3), np.int32), "expected a codebook: floating numbers"),
        (np.zeros(40, np.float32), r"float32 \[40\]"),
        (np.full((40, 3), np.nan, np.float32), "row 0 holds infinite numbers or NaN"),
        (np.zeros((7, 3), np.float32), "has no row in the codebook .* of 7 codes"),
    ],
)
def test_a_codebook_that_is_none_is_refused(tmp_path, rows, words):
    file = saved(tmp_path / "c.npy", rows)
    with pytest.raises(SourceError, match=words):
        bring_in(saved(tmp_path / "x.npy", IDS), tmp_path / "s", codebook=file)


# --- a file an image


def test_class_folders_give_labels_and_keys(tmp_path):
    for i, grid in enumerate(IDS):
        saved(tmp_path / "in" / ("fig", "apple")[i % 2] / f"{i}.npy", grid)
    store = bring_in(tmp_path / "in", tmp_path / "s")
    batch = store["train"].read(np.arange(9), keys=True)
    assert store.manifest.classes == ("apple", "fig")
    assert batch.keys == [f"apple/{i}" for i in (1, 3, 5, 7)] + [
        f"fig/{i}" for i in (0, 2, 4, 6, 8)
    ]
    assert batch.labels.tolist() == [0] * 4 + [1] * 5
    assert np.array_equal(store.ids(batch.ranks), IDS[[1, 3, 5, 7, 0, 2, 4, 6, 8]])
    assert verify_store(tmp_path / "s") == []


def test_flat_files_called_by_numbers_come_in_their_order(tmp_path):
    many = np.arange(12 * 4).reshape(12, 4)
    for i, row in enumerate(many):
        saved(tmp_path / "in" / f"{i}.npy", row)
    (tmp_path / "in" / "labels.txt").write_text("".join(f"{i % 3}\n" for i in range(12)))
    place = tmp_path / "in"
    store = bring_in(place, tmp_path / "s", labels=place / "labels.txt")
    batch = store["train"].read(np.arange(12), keys=True)
    assert batch.keys == [str(i) for i in range(12)]
    assert np.array_equal(store.ids(batch.ranks), many.reshape(12, 2, 2))
    assert batch.labels.tolist() == [i % 3 for i in range(12)]


def test_codebook_and_labels_may_lie_among_the_images(tmp_path):
    place = tmp_path / "in"
    for i, grid in enumerate(IDS):
        saved(place / f"{i}.npy", grid)
    codebook, labels = saved(place / "c.npy", np.eye(40)), saved(place / "l.npy", np.arange(9))
    store = bring_in(place, tmp_path / "s", codebook=codebook, labels=labels)
    assert np.array_equal(ids_of(store), IDS)
    assert store["train"].labels.tolist() == list(range(9))


def test_folders_of_splits_become_splits(tmp_path):
    for i, grid in enumerate(IDS):
        saved(tmp_path / "in" / ("val" if i < 2 else "train") / "a" / f"i{i}.npy", grid)
    store = bring_in(tmp_path / "in", tmp_path / "s")
    assert {name: len(split) for name, split in store.items()} == {"train": 7, "val": 2}
    assert store["val"].keys([0, 1]) == ["a/i0", "a/i1"]
    assert store.manifest.classes == ("a",)


def test_llamagens_folders_become_labelled_views(tmp_path):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 50, (11, 1, 10, 16))
    for i, code in enumerate(codes):
        saved(tmp_path / "in" / "imagenet256_codes" / f"{i}.npy", code)
        saved(tmp_path / "in" / "imagenet256_labels" / f"{i}.npy", np.array([i % 4]))
    store = bring_in(tmp_path / "in", tmp_path / "s")
    train = store["train"]
    assert (len(train), store.manifest.grid) == (110, (4, 4))
    assert np.array_equal(ids_of(store), codes.reshape(110, 4, 4))
    assert train.labels.tolist() == [i % 4 for i in range(11) for _ in range(10)]
    assert train.views(np.arange(110)).tolist() == list(range(10)) * 11
    assert train.keys([0, 109]) == ["0#0", "10#9"]
    assert verify_store(tmp_path / "s") == []


@pytest.mark.parametrize(
    ("shape", "grid", "views", "expected"),
    [
        ((16,), None, 1, (4, 4)),
        ((1, 16), None, 1, (4, 4)),
        ((1, 1, 16), None, 1, (4, 4)),
        ((1, 4, 4), None, 1, (4, 4)),
        ((2, 8), None, 1, (2, 8)),
        ((3, 2, 8), None, 1, (3, 2, 8)),
        ((3, 16), (4, 4), 3, (4, 4)),
        ((1, 3, 16), (4, 4), 3, (4, 4)),
        ((3, 4, 4), (4, 4), 3, (4, 4)),
    ],
)
def test_an_images_file_may_be_flat_or_hold_views(tmp_path, shape, grid, views, expected):
    array = np.arange(np.prod(shape)).reshape(shape)
    saved(tmp_path / "in" / "a.npy", array)
    store = bring_in(tmp_path / "in", tmp_path / "s", grid=grid)
    assert store.manifest.grid == expected
    assert np.array_equal(ids_of(store).ravel(), array.ravel())
    assert len(store["train"]) == views


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("a9.npy", np.zeros((4, 3), int), r"a9.npy' is \[4, 3\], '.*0.npy' \[4, 4\]"),
        ("a9.npy", np.zeros((1, 3, 16), int), "can be read in several ways"),
        ("a9.npy", np.zeros((4, 4)), "a9.npy' holds float64"),
        ("a9.npy", np.full((4, 4), -2), r"a9.npy': id -2 at \[0, 0\]"),
        ("a9.npy", np.array([[{}]]), "a9.npy' holds object"),
    ],
)
def test_a_file_that_is_unlike_the_others_is_named(tmp_path, name, array, words):
    for i, grid in enumerate(IDS):
        saved(tmp_path / "in" / f"a{i}0.npy", grid)
    np.save(tmp_path / "in" / name, array, allow_pickle=True)
    with pytest.raises(SourceError, match=words):
        bring_in(tmp_path / "in", tmp_path / "s")


def test_two_names_that_become_one_key_are_refused_unless_keys_are_not_kept(tmp_path):
    saved(tmp_path / "in" / "a%0Ab.npy", IDS[0])
    saved(tmp_path / "in" / "a\nb.npy", IDS[1])
    with pytest.raises(SourceError, match=r"(?s)key 'a%0Ab' of .* twice.*--no-keys"):
        bring_in(tmp_path / "in", tmp_path / "s")
    store = bring_in(tmp_path / "in", tmp_path / "s", keys=False)
    assert (len(store["train"]), store["train"].columns) == (2, ("ranks",))


def test_no_byte_of_a_header_makes_anything_but_an_error_or_an_array():
    stream = io.BytesIO()
    np.save(stream, IDS)
    whole, rng = stream.getvalue(), np.random.default_rng(0)
    outcomes = set()
    for place in range(128):
        for value in (0, 255, ord("("), ord("{"), ord("-"), ord("'"), int(rng.integers(256))):
            harmed = whole[:place] + bytes([value]) + whole[place + 1 :]
            try:
                outcomes.add(read_npy(harmed, "here").shape)
            except SourceError as error:
                outcomes.add(str(error)[:4])
    assert {"here", (9, 4, 4)} <= outcomes


def test_a_header_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    header = io.BytesIO()
    claim = {"descr": "<u2", "fortran_order": False, "shape": (1 << 40, 4, 4)}
    np.lib.format.write_array_header_1_0(header, claim)
    for name in ("x.npy", "in/x.npy"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(header.getvalue() + bytes(32))
    for place in ("x.npy", "in"):
        with pytest.raises(SourceError, match=r"promises|no whole"):
            bring_in(tmp_path / place, tmp_path / "s")


# --- the place of the store


def test_another_input_does_not_touch_a_finished_store(tmp_path):
    bring_in(saved(tmp_path / "x.npy", IDS), tmp_path / "s")
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    with pytest.raises(BuildError, match="finished store with another input"):
        bring_in(saved(tmp_path / "x.npy", IDS[::-1]), tmp_path / "s")
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before


def test_a_codec_that_is_none_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match="unknown codec 'lzw'"):
        import_store("npy", ImportRequest(tmp_path / "no"), tmp_path / "s", ImportOptions("lzw"))

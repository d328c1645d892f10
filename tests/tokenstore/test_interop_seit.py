"""seit: the released files and nothing else; the two meanings of a byte 255; hostile files."""

import gzip
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenstore
from tests.golden.golden_seit import FOLDER, codebook, slow_bytes, truth
from tests.small_store import Small, write_small_store
from tokenstore.codecs.escape import escape
from tokenstore.errors import SourceError, UsageError, WeightsError
from tokenstore.interop.base import ImportRequest
from tokenstore.interop.exporting import export_store
from tokenstore.interop.importing import ImportOptions, import_store
from tokenstore.interop.seit_code import Reading, Tally, read_ids
from tokenstore.verify import verify_store

# --- the code


def slow_steps(ids):
    """Equation 1 continued: as many bytes 255 as fit, then the rest."""
    out, starts = bytearray(), [0]
    for image in ids:
        for value in image.ravel().tolist():
            out += b"\xff" * (value // 255) + bytes([value % 255])
        starts.append(len(out))
    return bytes(out), starts


def decided(data, starts, grid=None):
    numbers = np.frombuffer(data, np.uint8), np.array(starts[:-1]), np.array(starts[1:])
    tally = Tally(grid)
    for image in range(len(starts) - 1):  # as if they came one by one
        tally.see(numbers[0], numbers[1][image : image + 1], numbers[2][image : image + 1])
    reading, grid = tally.decide("here")
    return reading, read_ids(numbers, grid, reading)


grids = st.integers(1, 4).flatmap(
    lambda side: st.lists(
        st.lists(st.sampled_from([0, 1, 253, 254, 255, 256, 400, 509]), min_size=side**2,
                 max_size=side**2).map(lambda ids: np.array(ids).reshape(side, side)),
        min_size=1, max_size=5,
    ).map(np.array)
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(grids)
def test_ids_below_510_are_written_as_the_published_writer_does_and_read_back(ids):
    data, starts = slow_bytes(ids)
    assert slow_steps(ids) == (data, starts)  # up to here the two readings are one
    ours, ends = escape(ids.astype(np.uint16))
    assert (ours.tobytes(), [0, *ends.tolist()]) == (data, starts)
    reading, found = decided(data, starts)
    assert reading is Reading.STEPS
    assert np.array_equal(found, ids)


@settings(deadline=None, max_examples=200)
@given(grids, st.integers(510, 65535), st.data())
def test_larger_ids_are_read_where_counting_tells_what_they_mean(ids, large, data):
    ids.flat[data.draw(st.integers(0, ids.size - 1))] = large
    steps = slow_steps(ids)
    assert np.array_equal(decided(*steps, grid=ids.shape[1:])[1], ids)
    ids[ids >= 510] = 510  # the largest that two bytes hold: 255 255
    reading, found = decided(*slow_bytes(ids), grid=ids.shape[1:])
    assert reading is Reading.PAIRS
    assert np.array_equal(found, ids)


def test_without_a_grid_other_images_or_the_square_decide():
    ids = np.array([[[510, 7], [8, 9]], [[1, 2], [3, 4]]])
    assert decided(*slow_steps(ids))[0] is Reading.STEPS
    assert decided(*slow_bytes(ids))[0] is Reading.PAIRS
    assert decided(*slow_steps(ids[:1]))[0] is Reading.STEPS  # four ids, or five by pairs


def test_bytes_that_can_mean_two_squares_are_refused():
    image = np.array([[[2550, 0], [0, 0]]])  # ten bytes 255, and four below: 4 ids, or 9
    data, starts = slow_steps(image)
    with pytest.raises(SourceError, match="read as 4 or 9 ids an image.*--grid"):
        decided(data, starts)
    assert decided(data, starts, grid=(2, 2))[0] is Reading.STEPS
    assert decided(data, starts, grid=(3, 3))[0] is Reading.PAIRS


@pytest.mark.parametrize(
    ("images", "grid", "words"),
    [
        ([b"\1\2\3\4", b"\1\2\3"], None, "image 1 has 3 ids, expected 4 as the first image has"),
        ([b"\1\2\3\4"], (3, 3), "image 0 has 4 ids, expected 9 as --grid says"),
        ([b"\1\2\3"], None, "3 ids an image, which is no square. Say --grid HxW"),
        ([b"\1\2\3\4", b"\1\2\3\xff"], None, "image 1 ends in the midst of an id"),
    ],
)
def test_images_of_other_lengths_are_named(images, grid, words):
    starts = np.cumsum([0, *map(len, images)]).tolist()
    with pytest.raises(SourceError, match=words):
        decided(b"".join(images), starts, grid)


# --- the released files


@pytest.fixture
def released(tmp_path):
    return Path(shutil.copytree(FOLDER, tmp_path / "tokens"))


def bring_in(place, store, **request):
    import_store("seit", ImportRequest(place, **request), store, ImportOptions())
    return tokenstore.open(store)


def test_the_golden_files_are_what_the_slow_writer_writes():
    for split, (ids, labels) in truth().items():
        data, starts = slow_bytes(ids)
        stem = FOLDER / f"imagenet1k-{split}"
        assert gzip.decompress(Path(f"{stem}-token.data.bin.gz").read_bytes()) == data
        index = gzip.decompress(Path(f"{stem}-token.index.npy.gz").read_bytes())
        assert np.load(io.BytesIO(index)).tolist() == starts
        assert Path(f"{stem}-label.txt").read_text().split() == [str(label) for label in labels]


def test_the_folder_of_released_files_becomes_a_store(released, tmp_path):
    store = bring_in(released, tmp_path / "s")
    assert verify_store(tmp_path / "s") == []
    assert list(store) == ["train", "val"]
    for split, (ids, labels) in truth().items():
        batch = store[split].read(np.arange(len(ids)))
        assert np.array_equal(store.ids(batch.ranks), ids)
        assert batch.labels.tolist() == labels
        assert store[split].columns == ("ranks", "label")
    assert np.array_equal(store.codebook, codebook()[store.vocabulary.ids])
    assert store.vocabulary.counts.tolist() == sorted(store.vocabulary.counts, reverse=True)
    manifest = store.manifest
    assert (manifest.tokenizer.name, manifest.order.rule) == ("unknown", "input")
    assert manifest.source.kind == "seit"
    assert manifest.grid == (4, 4)


def test_one_file_becomes_one_split_with_what_lies_beside_it(released, tmp_path):
    store = bring_in(released / "imagenet1k-val-token.data.bin.gz", tmp_path / "s", split="test")
    ids, labels = truth()["val"]
    batch = store["test"].read([0, 1])
    assert list(store) == ["test"]
    assert np.array_equal(store.ids(batch.ranks), ids)
    assert batch.labels.tolist() == labels
    assert store.codebook is not None


def test_without_a_codebook_there_is_none(released, tmp_path):
    (released / "codebook.ckpt").unlink()
    store = bring_in(released, tmp_path / "s")
    assert store.codebook is None
    assert store.manifest.tokenizer.weights is None


def test_a_codebook_can_lie_elsewhere(released, tmp_path):
    (released / "codebook.ckpt").unlink()
    np.save(tmp_path / "rows.npy", codebook())
    store = bring_in(released, tmp_path / "s", codebook=tmp_path / "rows.npy")
    assert np.array_equal(store.codebook, codebook()[store.vocabulary.ids])


def out_again(place, store, tmp_path):
    bring_in(place, store)
    report = export_store(store, "seit", tmp_path / "out")
    return tmp_path / "out", report.notes


def test_what_was_released_goes_out_the_same(released, tmp_path):
    import torch

    out, notes = out_again(released, tmp_path / "s", tmp_path)
    for split, (ids, labels) in truth().items():
        data, starts = slow_bytes(ids)
        assert gzip.decompress((out / f"{split}-token.data.bin.gz").read_bytes()) == data
        index = gzip.decompress((out / f"{split}-token.index.npy.gz").read_bytes())
        assert np.load(io.BytesIO(index)).tolist() == starts
        assert (out / f"{split}-label.txt").read_text().split() == [str(label) for label in labels]
    occurring = np.unique(np.concatenate([ids.ravel() for ids, _ in truth().values()]))
    rows = torch.load(out / "codebook.ckpt", weights_only=True).numpy()
    assert rows.shape == (391, 4)
    assert np.array_equal(rows[occurring], codebook()[occurring])
    assert not np.delete(rows, occurring, axis=0).any()
    assert any(f"{391 - len(occurring)} ids below 391 do not occur" in note for note in notes)
    synonyms = json.loads((out / "synonyms.json").read_text())
    assert sorted(map(int, synonyms)) == occurring.tolist()
    distances = np.square(codebook()[occurring] - codebook()[254]).sum(1)
    assert max(distances[np.searchsorted(occurring, synonyms["254"])]) == np.sort(distances)[5]
    assert "ids" not in json.loads((out / "tokens.json").read_text())


def test_ids_that_two_bytes_cannot_hold_go_out_as_ranks_and_come_back_as_ids(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.choice([3, 700, 8191], (5, 4, 4))
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "train.npy", ids)
    np.save(tmp_path / "rows.npy", rng.normal(size=(8192, 2)))
    request = ImportRequest(tmp_path / "in", codebook=tmp_path / "rows.npy")
    import_store("npy", request, tmp_path / "s", ImportOptions())
    store = tokenstore.open(tmp_path / "s")
    export_store(tmp_path / "s", "seit", tmp_path / "out")
    data = gzip.decompress((tmp_path / "out" / "train-token.data.bin.gz").read_bytes())
    assert data == slow_bytes(store["train"].read(np.arange(5)).ranks)[0]
    back = bring_in(tmp_path / "out", tmp_path / "t")
    assert np.array_equal(back.ids(back["train"].read(np.arange(5)).ranks), ids)
    assert np.array_equal(back.codebook, store.codebook)
    assert np.array_equal(back.vocabulary.ids, store.vocabulary.ids)


def test_more_codes_than_the_published_reader_can_tell_apart_are_refused(tmp_path):
    ids = np.arange(511).repeat(4)[: 511 * 4].reshape(-1, 2, 2)
    np.save(tmp_path / "ids.npy", ids)
    import_store("npy", ImportRequest(tmp_path / "ids.npy"), tmp_path / "s", ImportOptions())
    with pytest.raises(UsageError, match=r"511 codes, .* 510 apart only. Export it as npy"):
        export_store(tmp_path / "s", "seit", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_files_have_no_place_for_is_told(tmp_path):
    store = write_small_store(tmp_path / "s", Small()).store
    notes = export_store(store.url, "seit", tmp_path / "out").notes
    assert any("masks are left out" in note for note in notes)
    assert any("['key', 'meta', 'view']" in note for note in notes)
    assert any("expects 1024 ids an image; these have 12" in note for note in notes)


# --- hostile files


def pack(folder, data, index, labels=None):
    folder.mkdir(exist_ok=True)
    stream = io.BytesIO()
    np.save(stream, index, allow_pickle=True)
    (folder / "x-token.data.bin.gz").write_bytes(gzip.compress(data))
    (folder / "x-token.index.npy.gz").write_bytes(gzip.compress(stream.getvalue()))
    if labels is not None:
        (folder / "x-label.txt").write_text(labels)
    return folder


GOOD = bytes(range(16))


@pytest.mark.parametrize(
    ("data", "index", "labels", "words"),
    [
        (GOOD, [0, 8, 4, 16], None, "image 1 goes from byte 8 to 4.*unsorted"),
        (GOOD, [0, 8, 8, 16], None, "image 1 goes from byte 8 to 8"),
        (GOOD, [4, 8, 16], None, "begins with 4, expected 0"),
        (GOOD, [0, 4, 8], None, "goes on behind byte 8"),
        (GOOD, [0, 4, 8, 12, 16, 20], None, "ends at byte 16, but .* goes to byte 20"),
        (GOOD, [0, 2**40], None, "expected 1 to 67,108,864 bytes"),
        (GOOD, [0], None, r"is int64 \[1\], expected start offsets"),
        (GOOD, [0.0, 16.0], None, r"is float64 \[2\]"),
        (GOOD, [[0, 16]], None, r"int64 \[1, 2\]"),
        (GOOD, np.array([0, {}], object), None, "Python objects"),
        (GOOD, [0, 4, 16], None, "image 1 has 12 ids, expected 4"),
        (GOOD, [0, 16], "1\n2\n", "has 2 labels, .* 1 images"),
        (GOOD, [0, 16], "-1\n", "label -1 of image 0"),
        (GOOD, [0, 16], "9" * 18, "label 9999999"),
    ],
)
def test_index_data_and_labels_must_belong_together(tmp_path, data, index, labels, words):
    place = pack(tmp_path / "in", data, np.array(index), labels)
    with pytest.raises(SourceError, match=words) as refused:
        bring_in(place, tmp_path / "s")
    assert str(place) in str(refused.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["x-token.data.bin.gz", "x-token.index.npy.gz"])
@pytest.mark.parametrize("harm", ["cut", "flipped", "no gzip"])
def test_a_damaged_gzip_is_named(tmp_path, name, harm):
    place = pack(tmp_path / "in", GOOD * 64, np.arange(0, 1025, 16))
    content = bytearray((place / name).read_bytes())
    if harm == "flipped":
        content[-6] ^= 1  # the stream's own check
    (place / name).write_bytes({"cut": content[:-9], "no gzip": GOOD}.get(harm, content))
    with pytest.raises(SourceError, match=f"{name}' is damaged"):
        bring_in(place, tmp_path / "s")


def test_ids_outside_the_codebook_are_named(released, tmp_path):
    np.save(tmp_path / "rows.npy", codebook()[:390])
    with pytest.raises(SourceError, match=r"train-token.data.bin.gz', image 1: id 390 at \[0, 0\]"):
        bring_in(released, tmp_path / "s", codebook=tmp_path / "rows.npy")


def test_a_codebook_that_is_a_program_is_not_run(released, tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (released / "codebook.ckpt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(WeightsError):
        bring_in(released, tmp_path / "s")
    assert not (tmp_path / "sprung").exists()


def test_files_that_are_missing_or_there_twice_are_named(released, tmp_path):
    (released / "imagenet1k-train-token-label.txt").write_text("1\n")
    with pytest.raises(SourceError, match="both label"):
        bring_in(released, tmp_path / "s")
    (released / "imagenet1k-train-token-label.txt").unlink()
    shutil.copy(released / "imagenet1k-val-token.data.bin.gz", released / "val.data.bin.gz")
    with pytest.raises(SourceError, match="both of split 'val'"):
        bring_in(released, tmp_path / "s")
    (released / "val.data.bin.gz").unlink()
    (released / "imagenet1k-val-token.index.npy.gz").unlink()
    with pytest.raises(SourceError, match=r"index.npy.gz' is missing"):
        bring_in(released, tmp_path / "s")
    with pytest.raises(SourceError, match=r"is no file \*.data.bin.gz"):
        bring_in(released / "codebook.ckpt", tmp_path / "s")

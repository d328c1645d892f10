"""webdataset: tars of .npy with .cls and .json, in and out, and hostile tars."""

import io
import json
import tarfile

import numpy as np
import pytest

import tokenstore
from tests.small_store import Small, write_small_store
from tokenstore.errors import SourceError
from tokenstore.interop.base import ImportRequest
from tokenstore.interop.exporting import export_store
from tokenstore.interop.importing import ImportOptions, import_store
from tokenstore.verify import verify_store

IDS = np.random.default_rng(0).integers(0, 40, (5, 4, 4)).astype(np.int32)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def tar(file, members, mode="w"):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def members(ids, **others):
    """`others`: extension -> bytes by number of the image."""
    for i, grid in enumerate(ids):
        yield f"s/{i:03d}.npy", npy(grid)
        for extension, content in others.items():
            yield f"s/{i:03d}.{extension}", content(i)


def bring_in(place, store, keys=True, **request):
    report = import_store(
        "webdataset", ImportRequest(place, **request), store, ImportOptions(keys=keys)
    )
    return tokenstore.open(store), report


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")]
)
def test_a_tar_becomes_a_store(tmp_path, name, mode):
    content = members(
        IDS,
        cls=lambda i: str(i % 3).encode() + b"\n",
        json=lambda i: json.dumps({"n": i}).encode(),
    )
    store, _ = bring_in(tar(tmp_path / name, content, mode), tmp_path / "s")
    train = store["train"]
    batch = train.read(np.arange(5), keys=True)
    assert np.array_equal(store.ids(batch.ranks), IDS)
    assert batch.labels.tolist() == [0, 1, 2, 0, 1]
    assert batch.keys == [f"s/00{i}" for i in range(5)]
    assert train.meta(np.arange(5)) == [{"n": i} for i in range(5)]
    assert verify_store(tmp_path / "s") == []


def test_labels_may_be_names_or_stand_in_the_json(tmp_path):
    named = tar(tmp_path / "a.tar", members(IDS, cls=lambda i: b"fig" if i else b"pear"))
    store, _ = bring_in(named, tmp_path / "s")
    assert store.manifest.classes == ("fig", "pear")
    assert store["train"].labels.tolist() == [1, 0, 0, 0, 0]
    inside = tar(tmp_path / "b.tar", members(IDS, json=lambda i: b'{"label": %d}' % i))
    assert bring_in(inside, tmp_path / "t")[0]["train"].labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(16,), (4, 4), (2, 8), (1, 16), (4, 2, 2)])
def test_the_grid_is_that_of_the_arrays_or_asked_for(tmp_path, shape):
    file = tar(tmp_path / "a.tar", members(IDS.reshape(5, *shape)))
    store, _ = bring_in(file, tmp_path / "s")
    assert store.manifest.grid == ((4, 4) if len(shape) == 1 else shape)
    assert bring_in(file, tmp_path / "t", grid=(8, 2))[0].manifest.grid == (8, 2)


def test_a_folder_of_tars_is_read_in_order_and_its_splits_kept_apart(tmp_path):
    for name in ("train-000001", "train-000000", "val-000000"):
        content = [(f"{name}_{i}.ids.npy", npy(IDS[i])) for i in range(2)]
        tar(tmp_path / "in" / f"{name}.tar", content)
    store, _ = bring_in(tmp_path / "in", tmp_path / "s")
    assert store["train"].keys(np.arange(4)) == [
        f"train-00000{t}_{i}" for t in (0, 1) for i in (0, 1)
    ]
    assert store["val"].keys([0, 1]) == ["val-000000_0", "val-000000_1"]


def test_other_members_are_left_out_and_counted(tmp_path):
    file = tar(tmp_path / "a.tar", members(IDS, jpg=lambda i: b"picture", txt=lambda i: b"caption"))
    _, report = bring_in(file, tmp_path / "s")
    assert report.notes == ["5 members .jpg are left out", "5 members .txt are left out"]


def test_keys_that_webdataset_cannot_have_come_back_all_the_same(tmp_path):
    names = ["a.b", "c/d.e", "plain", "f.g/h", "..."]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "train.keys.txt").write_text("".join(f"{name}\n" for name in names))
    np.save(tmp_path / "in" / "train.npy", IDS)
    import_store("npy", ImportRequest(tmp_path / "in"), tmp_path / "s", ImportOptions())
    export_store(tmp_path / "s", "webdataset", tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as archive:
        assert all(name.partition("/")[0] != ".." for name in archive.getnames())
    store, _ = bring_in(tmp_path / "out", tmp_path / "t")
    assert store["train"].keys(np.arange(5)) == names


def test_webdataset_itself_reads_an_export(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="needs tokenstore[build]")
    store = write_small_store(tmp_path / "s", Small(extras=False)).store
    export_store(store.url, "webdataset", tmp_path / "out")
    shard = str(tmp_path / "out" / "val-000000.tar")
    with warnings_of_webdataset():
        found = list(webdataset.WebDataset(shard, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in found] == store["val"].keys(np.arange(5))
    ids = store.ids(store["val"].read(np.arange(5)).ranks)
    assert np.array_equal(np.stack([sample["npy"] for sample in found]), ids)
    assert [sample["cls"] for sample in found] == store["val"].labels.tolist()


def warnings_of_webdataset():
    """Webdataset leaves the files it reads to the garbage collector."""
    import contextlib
    import gc
    import warnings

    @contextlib.contextmanager
    def quiet():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
            gc.collect()

    return quiet()


GOOD = npy(IDS[0])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([("a.npy", GOOD), ("b.npy", GOOD), ("a.npy", GOOD)], "key 'a' of split .* stands twice"),
        ([("a.npy", GOOD), ("b.npy", GOOD), ("a.cls", b"1")], "sample 'a' has 0 members with ids"),
        ([("a.npy", GOOD), ("a.x.npy", GOOD)], "has 2 members with ids"),
        ([("a.npy", GOOD), ("a.npy", GOOD)], "two members '.npy'"),
        ([("a.npy", GOOD), ("a.pyd", b"\x80\x04N.")], "member 'a.pyd' is a pickle"),
        ([("a.pth", b"PK\3\4")], "member 'a.pth' is a pickle"),
        ([("a.ids.pkl", b"N.")], "member 'a.ids.pkl' is a pickle"),
        ([("a.npz", b"PK")], "is a pickle or an archive"),
        ([("a.npy", npy(np.array([[{}]], object)))], "Python objects"),
        ([("a.npy", b"\x80\x04N.")], "sample 'a' is no .npy file"),
        ([("a.npy", npy(IDS[0] / 2))], "holds float64, expected ids"),
        ([("a.npy", npy(-IDS[0] - 1))], "sample 'a': id -"),
        ([("a.npy", GOOD), ("b.npy", npy(IDS[0][:3]))], r"sample 'b' is \[3, 4\], expected 4x4"),
        ([("a.npy", GOOD), ("a.cls", b"1"), ("b.npy", GOOD)], "sample 'b' has no label"),
        ([("a.npy", GOOD), ("a.cls", b"x"), ("b.npy", GOOD), ("b.cls", b"1")], "some names"),
        ([("a.npy", GOOD), ("a.cls", b"-1")], "sample 'a': label -1"),
        ([("a.npy", GOOD), ("a.cls", b"\xff")], "its .cls is no UTF-8"),
        ([("a.npy", GOOD), ("a.json", b"{")], "its .json is no JSON"),
        ([("a.npy", GOOD), ("a.json", b"[1]")], "holds a list, expected an object"),
        ([("../a.npy", GOOD)], "key '../a' is no path inside a folder"),
        ([("/etc/a.npy", GOOD)], "key '/etc/a' is no path"),
        ([("x.txt", b"hello")], "has 0 members with ids"),
        ([], "holds no sample"),
    ],
)  # fmt: skip
def test_a_tar_that_is_not_as_it_should_be_is_refused(tmp_path, content, words):
    file = tar(tmp_path / "a.tar", content)
    with pytest.raises(SourceError, match=words) as refused:
        bring_in(file, tmp_path / "s")
    assert "a.tar" in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_that_is_cut_short_anywhere_is_refused(tmp_path, mode):
    file = tar(tmp_path / "a.tar", members(IDS), mode)
    whole = file.read_bytes()
    end = 10 * 512 if mode == "w" else len(whole)  # then zeros
    for length in range(0, end, 97 if mode == "w" else 13):
        file.write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"a\.tar"):
            bring_in(file, tmp_path / "s")


def test_a_tar_with_a_damaged_header_in_its_midst_is_refused(tmp_path):
    file = tar(tmp_path / "a.tar", members(IDS))
    content = bytearray(file.read_bytes())
    content[2 * 1024 + 20] ^= 1  # the name of the third sample
    file.write_bytes(content)
    with pytest.raises(SourceError, match=r"does not end at byte 2048"):
        bring_in(file, tmp_path / "s")


def test_joined_tars_are_refused(tmp_path):
    first, second = (tar(tmp_path / f"{i}.tar", members(IDS)).read_bytes() for i in range(2))
    (tmp_path / "joined.tar").write_bytes(first + second)
    with pytest.raises(SourceError, match="several tars were joined"):
        bring_in(tmp_path / "joined.tar", tmp_path / "s")


def test_links_and_devices_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo("link.npy")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("a.npy")
        info.size = len(GOOD)
        archive.addfile(info, io.BytesIO(GOOD))
    store, _ = bring_in(tmp_path / "a.tar", tmp_path / "s")
    assert store["train"].keys([0]) == ["a"]
    assert len(store["train"]) == 1


def test_names_that_repeat_in_other_tars_are_kept_without_keys(tmp_path):
    for name in ("a", "b"):
        tar(tmp_path / "in" / f"{name}.tar", members(IDS))
    with pytest.raises(SourceError, match=r"stands twice: .*a\.tar.* and .*b\.tar"):
        bring_in(tmp_path / "in", tmp_path / "s")
    store, _ = bring_in(tmp_path / "in", tmp_path / "s", keys=False)
    assert len(store["train"]) == 10

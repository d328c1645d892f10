"""`tokenstore build` from outside: what a user types, on generated images, with a toy tokenizer."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tokenstore
from tests.stopping import Stopped, stopping
from tests.toy_images import encoded, picture, write_corpus
from tokenstore.cli.main import main
from tokenstore.errors import NotAStore
from tokenstore.sources.base import decode_image
from tokenstore.tokenizers import load_tokenizer

pytestmark = pytest.mark.usefixtures("toy_tokenizer")


def build(*words: object) -> Result:
    """Run `tokenstore build` in this process, with the toy tokenizer."""
    arguments = ["build", *map(str, words), "--tokenizer", "toy"]
    return CliRunner().invoke(main, arguments)


def built(*words: object) -> Result:
    result = build(*words)
    assert result.exit_code == 0, result.output
    return result


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_refused(result: Result, *texts: str) -> None:
    """Exit code 2 and one or two sentences on stderr, nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    for text in texts:
        assert text in error


def assert_no_store_below(folder: Path) -> None:
    for place in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        with pytest.raises(NotAStore):
            tokenstore.open(place)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "photos", {"train": 10, "val": 4})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "s"


# --- what a store holds


def test_a_store_gives_back_the_tokens_labels_and_keys_of_every_image(
    corpus: Path, out: Path
) -> None:
    built(corpus, "-o", out, "--part-size", "4", "--batch-size", "3")
    store = tokenstore.open(out)
    tokenizer = load_tokenizer("toy")
    assert {name: len(split) for name, split in store.splits.items()} == {"train": 10, "val": 4}
    for name, split in store.splits.items():
        for sample in split:
            image = decode_image((corpus / name / f"{sample.key}.jpg").read_bytes())
            ids = tokenizer.encode(tokenizer.preprocess(image)[None])[0]
            assert np.array_equal(store.ids(sample.ranks), ids)
            assert split.classes[sample.label] == sample.key.partition("/")[0]


def test_the_summary_names_splits_sizes_rejects_rate_and_next_steps(
    corpus: Path, out: Path
) -> None:
    told = built(corpus, "-o", out).stdout
    for text in ("train", "10 images", "entropy", "source files", "rejects", "images/s", "verify"):
        assert text in told


def test_the_summary_as_json_is_one_object_that_adds_up(corpus: Path, out: Path) -> None:
    facts = json.loads(built(corpus, "-o", out, "--json").stdout)
    assert facts["splits"] == {"train": 10, "val": 4}
    assert facts["tokenized"] == 14
    assert facts["source_bytes"] == sum(p.stat().st_size for p in corpus.rglob("*.jpg"))
    assert facts["fingerprint"] == tokenstore.open(out).fingerprint
    assert facts["new"] is True


def test_the_summary_ends_with_what_context_would_save(tmp_path: Path, out: Path) -> None:
    corpus = write_corpus(tmp_path / "many", {"train": 260})
    last = built(corpus, "-o", out).stdout.splitlines()[-1]
    assert last.startswith("codec context would save")
    facts = json.loads(built(corpus, "-o", tmp_path / "s2", "--json").stdout)
    assert ("next to nothing" in last) == (facts["context_saving"]["share"] < 0.005)


@pytest.mark.parametrize("codec", ["context", "rans"])
def test_a_build_with_an_entropy_codec_reads_back(corpus: Path, out: Path, codec: str) -> None:
    facts = json.loads(built(corpus, "-o", out, "--codec", codec, "--json").stdout)
    assert facts["context_saving"] is None
    plain = built(corpus, "-o", out.with_name("plain"))
    assert "context" not in plain.stdout
    first, second = (tokenstore.open(place)["train"].read(range(10)).ranks
                     for place in (out, out.with_name("plain")))  # fmt: skip
    assert np.array_equal(first, second)


def test_every_form_of_image_becomes_a_sample(tmp_path: Path, out: Path) -> None:
    colour, exif = picture(1), Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 60)
    files = {
        "jpeg.JPEG": encoded(colour),
        "png.png": encoded(colour, "PNG"),
        "webp.WebP": encoded(colour, "WEBP"),
        "bmp.bmp": encoded(colour, "BMP"),
        "grey.jpg": encoded(colour.convert("L")),
        "cmyk.jpg": encoded(colour.convert("CMYK")),
        "alpha.png": encoded(colour.convert("RGBA"), "PNG"),
        "palette.png": encoded(colour.convert("P"), "PNG", transparency=0),
        "bits.png": encoded(colour.convert("1"), "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "turned.jpg": encoded(colour, exif=exif),
    }
    (tmp_path / "forms").mkdir()
    for name, content in files.items():
        (tmp_path / "forms" / name).write_bytes(content)
    built(tmp_path / "forms", "-o", out)
    train = tokenstore.open(out)["train"]
    assert {sample.key for sample in train} == {name.partition(".")[0] for name in files}
    assert train.labels is None


def test_without_o_the_store_lies_here_under_the_name_of_the_input(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    built("photos/")
    assert len(tokenstore.open(tmp_path / "photos.tokenstore")["train"]) == 10


def test_options_reach_the_store(corpus: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('["pear", "plum", "apple"]')
    words = ["--image-size", "16x24", "--preprocess", "squash", "--codec", "gzip", "--no-keys"]
    words += ["--order", "input", "--limit", "3", "--classes", tmp_path / "names.json"]
    built(corpus, "-o", out, *words)
    store = tokenstore.open(out)
    assert store.manifest.preprocess == {"rule": "squash", "size": [16, 24]}
    assert store.manifest.grid == (2, 3)
    assert store.manifest.classes == ("pear", "plum", "apple")
    assert store.manifest.order.model_dump() == {"rule": "input", "seed": None}
    assert [len(split) for split in store.splits.values()] == [3, 3]
    assert store["train"][0].key is None
    assert store["train"].labels.tolist() == [2, 2, 2]
    assert store.manifest.table_sets[0].codec == "gzip"


# --- the same bytes, however it was reached


def test_workers_do_not_change_a_byte(corpus: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        words = ("--workers", workers, "--part-size", 4, "--batch-size", 3)
        built(corpus, "-o", tmp_path / f"s{workers}", *words)
    assert tree(tmp_path / "s1") == tree(tmp_path / "s3")


def test_parts_change_shards_and_not_samples(corpus: Path, tmp_path: Path) -> None:
    for size in (3, 100):
        built(corpus, "-o", tmp_path / f"s{size}", "--part-size", size)
    small, large = (tokenstore.open(tmp_path / f"s{size}")["train"] for size in (3, 100))
    assert len(small.entry.shards) == 4
    assert [s.key for s in small] == [s.key for s in large]
    assert np.array_equal(small.read(range(10)).ranks, large.read(range(10)).ranks)


def test_a_build_stopped_before_any_of_its_writes_continues_to_the_same_bytes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "train" / "apple" / "broken.jpg").write_bytes(b"no image")
    words = (corpus, "--part-size", "4", "--batch-size", "3")
    built(*words, "-o", tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    after, stops = 0, 0
    while True:
        place = tmp_path / f"stopped-{after}"
        with stopping(monkeypatch, after):
            result = build(*words, "-o", place)
        if result.exit_code == 0:
            break
        assert isinstance(result.exception, Stopped)
        assert_no_store_below(place.parent / place.name)
        built(*words, "-o", place)
        assert tree(place) == whole, f"stopped before write {after}"
        assert not Path(f"{place}.building").exists()
        after, stops = after + 1, stops + 1
    assert stops > 15  # plan, parts with sidecars, vocabulary, tables, shards, indexes, manifest


@pytest.mark.kill
@pytest.mark.parametrize("writes", [1, 4, 9])
def test_a_killed_build_continues_to_the_same_bytes(
    corpus: Path, tmp_path: Path, writes: int
) -> None:
    program = f"""
import os, signal
from tokenstore.cli.main import main
flush, count = os.fsync, 0
def killing(descriptor):
    global count
    count += 1
    if count > {writes}:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(descriptor)
os.fsync = killing
main()
"""
    words = ["build", str(corpus), "--tokenizer", "toy", "--part-size", "4", "-o"]
    killed = subprocess.run(
        [sys.executable, "-c", program, *words, str(tmp_path / "s")], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert_no_store_below(tmp_path)
    built(corpus, "--part-size", "4", "-o", tmp_path / "s")
    built(corpus, "--part-size", "4", "-o", tmp_path / "whole")
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


def test_ctrl_c_exits_130_and_leaves_nothing_that_opens(
    corpus: Path, out: Path, tmp_path: Path
) -> None:
    program = (
        "import _thread, tests.toy_tokenizer as toy\n"
        "encode = toy.ToyTokenizer.encode\n"
        "def interrupting(self, images):\n"
        "    _thread.interrupt_main()\n"
        "    return encode(self, images)\n"
        "toy.ToyTokenizer.encode = interrupting\n"
        "from tokenstore.cli.main import main\n"
        "main()\n"
    )
    words = ["build", str(corpus), "--tokenizer", "toy", "-o", str(out)]
    ran = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 130, ran.stderr
    assert "Traceback" not in ran.stderr
    assert_no_store_below(tmp_path)
    built(corpus, "-o", out)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_part_is_made_again_and_not_used(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    with stopping(monkeypatch, 9):  # six files of the plan come first
        build(corpus, "-o", tmp_path / "s", "--part-size", "4")
    part = tmp_path / "s.building" / "parts" / "train-000000.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content[:-9] if damage == "cut" else content)
    built(corpus, "-o", tmp_path / "s", "--part-size", "4")
    built(corpus, "-o", tmp_path / "whole", "--part-size", "4")
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


# --- what stands at the output


def test_a_whole_store_of_the_same_plan_is_left_alone(corpus: Path, out: Path) -> None:
    built(corpus, "-o", out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert "is whole already" in built(corpus, "-o", out).stdout
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert json.loads(built(corpus, "-o", out, "--json").stdout)["new"] is False


def test_leftovers_of_a_whole_store_are_cleared(corpus: Path, out: Path) -> None:
    built(corpus, "-o", out)
    plan = Path(f"{out}.building") / "plan.json"
    built(corpus, "-o", out.with_name("other"), "--seed", "1")
    plan.parent.mkdir()
    facts = tokenstore.open(out).manifest.plan
    plan.write_text(json.dumps({"hash": facts}))
    built(corpus, "-o", out)
    assert not plan.parent.exists()


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (["--seed", "1"], "plan: other options or versions"),
        (["--codec", "gzip"], "codec"),
        (["--image-size", "64"], "preprocess"),
        (["--order", "input"], "order"),
    ],
)
def test_a_whole_store_of_other_options_is_refused_untouched(
    corpus: Path, out: Path, change: list[str], differing: str
) -> None:
    built(corpus, "-o", out)
    before = tree(out.parent)
    result = build(corpus, "-o", out, *change)
    assert_refused(result, f"is a finished store with another {differing}.")
    assert tree(out.parent) == before


def test_a_whole_store_of_another_input_is_refused(corpus: Path, out: Path) -> None:
    built(corpus, "-o", out)
    write_corpus(corpus, {"train": 11})
    assert_refused(build(corpus, "-o", out), "is a finished store with another input.")


def test_a_foreign_folder_is_refused_untouched(corpus: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    before = tree(out.parent)
    assert_refused(build(corpus, "-o", out), "thesis.tex")
    assert tree(out.parent) == before


# --- rejects


@pytest.fixture
def flawed(corpus: Path) -> Path:
    """The corpus with a truncated JPEG, a text named .jpg, an empty file and a repeated key."""
    whole = encoded(picture(3, (200, 160)))
    (corpus / "train" / "apple" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (corpus / "train" / "apple" / "text.jpg").write_bytes(b"no image")
    (corpus / "val" / "pear" / "empty.png").write_bytes(b"")
    (corpus / "train" / "pear" / "photo_001.png").write_bytes(encoded(picture(4), "PNG"))
    return corpus


REJECTS = {
    "train/apple/cut.jpg": "truncated",
    "train/apple/text.jpg": "no JPEG",
    "val/pear/empty.png": "empty",
    "train/pear/photo_001.png": "already that of train/pear/photo_001.jpg",
}


def test_rejects_are_listed_in_the_store_and_on_stderr_and_cost_nothing_else(
    flawed: Path, out: Path
) -> None:
    told = built(flawed, "-o", out)
    store = tokenstore.open(out)
    assert [len(split) for split in store.splits.values()] == [10, 4]
    assert store.manifest.rejects.count == 4
    rows = pyarrow.parquet.read_table(out / store.manifest.rejects.file.name).to_pylist()
    reasons = {row["path"]: row["reason"] for row in rows}
    assert reasons.keys() == REJECTS.keys()
    for path, reason in REJECTS.items():
        assert reason in reasons[path]
        assert f"rejected {path}: " in told.stderr


def test_strict_makes_the_first_reject_an_error(flawed: Path, out: Path, tmp_path: Path) -> None:
    assert_refused(build(flawed, "-o", out, "--strict"), "photo_001", "--strict")
    (flawed / "train" / "pear" / "photo_001.png").unlink()
    assert_refused(build(flawed, "-o", tmp_path / "t", "--strict"), "--strict")
    assert_no_store_below(tmp_path)


def test_a_strict_build_continues_without_strict(flawed: Path, out: Path) -> None:
    build(flawed, "-o", out, "--strict")
    built(flawed, "-o", out)
    assert tokenstore.open(out).manifest.rejects.count == 4


def test_strict_also_minds_the_rejects_of_parts_that_were_finished_before(
    corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "train" / "apple" / "text.jpg").write_bytes(b"no image")
    with stopping(monkeypatch, 5):
        build(corpus, "-o", out)
    assert_refused(build(corpus, "-o", out, "--strict"), "text.jpg")


def test_max_rejects_stops_a_build_that_goes_wrong(flawed: Path, out: Path, tmp_path: Path) -> None:
    assert_refused(build(flawed, "-o", out, "--max-rejects", 3), "4 images rejected")
    assert_no_store_below(tmp_path)
    built(flawed, "-o", out, "--max-rejects", 4)


def test_nothing_but_rejects_makes_no_store(tmp_path: Path, out: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"no image")
    assert_refused(build(tmp_path / "bad", "-o", out), "none of the 1 images")
    assert_no_store_below(tmp_path)


def test_a_part_that_loses_every_image_leaves_no_gap_in_the_shards(corpus: Path, out: Path) -> None:
    first = sorted((corpus / "train").rglob("*.jpg"))[:4]
    for path in first:
        path.write_bytes(b"no image")
    built(corpus, "-o", out, "--part-size", 4, "--order", "input")
    train = tokenstore.open(out)["train"]
    assert [shard.shard.name for shard in train.entry.shards] == [
        "train-000000.tar",
        "train-000001.tar",
    ]
    assert len(train) == 6


# --- bad input


def test_bad_input_is_refused_and_leaves_nothing(tmp_path: Path, out: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.jpg").write_bytes(b"x")
    for name in ("empty", "missing", "file.jpg"):
        assert_refused(build(tmp_path / name, "-o", out), name)
        assert not out.exists()
        assert not Path(f"{out}.building").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_refused(corpus: Path, out: Path) -> None:
    (corpus / "train" / "apple").chmod(0)
    assert_refused(build(corpus, "-o", out), "cannot be read")
    (corpus / "train" / "apple").chmod(0o755)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["--codec", "zsdt"], ["unknown codec 'zsdt'", "Known: context, gzip, rans, zstd"]),
        (["--source", "floppy"], ["unknown source 'floppy'", "image-folder"]),
        (["--image-size", "big"], ["--image-size 'big'"]),
        (["--preprocess", "stretch"], ["not one of", "center-crop"]),
        (["--classes", "none.json"], ["none.json", "cannot be read"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--order", "random"], ["--order"]),
        (["--frobnicate"], ["--frobnicate"]),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(
    corpus: Path, out: Path, words: list[str], texts: list[str]
) -> None:
    assert_refused(build(corpus, "-o", out, *words), *texts)
    assert not out.exists()
    assert not Path(f"{out}.building").exists()


def test_an_unknown_tokenizer_lists_the_known_ones(corpus: Path, out: Path) -> None:
    words = ["build", str(corpus), "-o", str(out), "--tokenizer", "poket"]
    assert_refused(CliRunner().invoke(main, words), "unknown tokenizer 'poket'", "pocket", "toy")


def test_a_store_that_cannot_be_written_is_an_error(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert_refused(build(corpus, "-o", tmp_path / "file" / "s"))

"""The commands that look at a store: info, verify and show."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.small_store import write_small_store
from tests.toy_images import write_corpus
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.cli.main import main
from tokenstore.reader import Store

pytestmark = pytest.mark.usefixtures("toy_tokenizer")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_toy_store(tmp_path / "s")


@pytest.fixture(params=["info", "verify", "show"])
def command(request: pytest.FixtureRequest) -> list[str]:
    return {"info": ["info"], "verify": ["verify"], "show": ["show"]}[request.param]


# --- info


def test_info_tells_what_a_store_is_and_where_its_bytes_go(store: Store) -> None:
    told = run("info", store.url)
    assert told.exit_code == 0
    for text in (
        "64 images as 8x8 tokens",
        "tokenizer   toy, pictures 64x64 (center-crop)",
        "16 codes of 64",
        "classes     4: class0, class1, class2, class3",
        "order-0 entropy",
        "records / entropy",
        store.fingerprint,
    ):
        assert text in told.stdout


def test_info_as_json_adds_up(store: Store) -> None:
    facts = json.loads(run("info", store.url, "--json").stdout)
    assert facts["images"] == 64
    assert facts["vocabulary"]["used"] == 16
    assert facts["vocabulary"]["codebook"] == 64
    for split in facts["splits"].values():
        parts = split["bytes"]
        summed = sum(parts[name] for name in ("records", "framing", "index", "keys", "extras"))
        assert parts["total"] == summed
        assert split["bytes_an_image"]["total"] * split["images"] == pytest.approx(summed)
        ratio = split["bytes_an_image"]["records"] / facts["entropy_bytes_an_image"]
        assert split["records_of_entropy"] == pytest.approx(ratio)


def test_info_as_json_tells_what_a_script_may_ask(tmp_path: Path) -> None:
    store = write_small_store(tmp_path / "s").store
    facts = json.loads(run("info", store.url, "--json").stdout)
    assert facts["fingerprint"] == store.fingerprint
    assert facts["vocabulary"]["fingerprint"] == store.vocabulary_fingerprint
    assert facts["vocabulary"]["dimension"] == 2
    assert [tables["codec"] for tables in facts["table_sets"]] == ["zstd", "gzip"]
    assert facts["splits"]["train"]["shards"] == 3
    assert facts["splits"]["train"]["table_sets"] == [0, 1]
    assert facts["splits"]["val"]["columns"] == list(store["val"].columns)
    assert facts["source"] == {"kind": "toy", "listing": "0" * 64}
    assert (facts["version"], facts["parent"], facts["block"]) == (0, None, 4)
    assert facts["requires"] == sorted(["key", "label", "mask", "meta", "view"])
    totals = [split["bytes"]["total"] for split in facts["splits"].values()]
    assert facts["bytes"] == sum(totals) + facts["vocabulary"]["bytes"] + facts["tables_bytes"]
    assert "gzip, zstd (2 table sets)" in run("info", store.url).stdout


def test_info_of_a_store_without_labels_and_with_an_empty_split(tmp_path: Path) -> None:
    toy = ToyStore(counts={"train": 8, "val": 0}, classes=0)
    told = run("info", write_toy_store(tmp_path / "s", toy).url)
    assert told.exit_code == 0
    assert "classes     none" in told.stdout


# --- verify


def test_verify_finds_nothing_in_a_store_just_built(tmp_path: Path) -> None:
    corpus, place = write_corpus(tmp_path / "photos", {"train": 6, "val": 2}), tmp_path / "s"
    assert run("build", corpus, "-o", place, "--tokenizer", "toy").exit_code == 0
    told = run("verify", place)
    assert (told.exit_code, told.stdout) == (0, f"{place}: sound\n")
    assert json.loads(run("verify", place, "--sample", 3, "--json").stdout)["findings"] == []


def test_verify_names_what_is_wrong_and_exits_1(store: Store) -> None:
    shard = Path(store.url) / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 4
    shard.write_bytes(content)
    told = run("verify", store.url)
    assert told.exit_code == 1
    assert "train-000000.tar" in told.stdout
    findings = json.loads(run("verify", store.url, "--json").stdout)["findings"]
    assert len(findings) == len(told.stdout.splitlines()) - 1
    assert findings[0].keys() == {"place", "what", "expected", "found"}


# --- show


def test_show_writes_one_sample_as_it_is_decoded(store: Store, tmp_path: Path) -> None:
    told = run("show", store.url, 5, "-o", tmp_path / "x.png")
    assert told.exit_code == 0, told.output
    sample = store["train"][5]
    with Image.open(tmp_path / "x.png") as picture:
        assert np.array_equal(np.asarray(picture), store.decode(sample.ranks[None])[0])
    assert told.stdout.split() == ["5", sample.key, store["train"].classes[sample.label]]


def test_show_writes_several_samples_as_a_sheet_with_captions(store: Store, tmp_path: Path) -> None:
    told = run("show", store.url, 0, 3, 1, "--split", "val", "-o", tmp_path / "sheet.png")
    assert told.exit_code == 0, told.output
    keys = store["val"].keys([0, 3, 1])
    assert [line.split()[1] for line in told.stdout.splitlines()] == keys
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * 128
        assert sheet.height > 2 * 128


def test_show_without_o_names_the_picture_for_store_split_and_sample(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("show", store.url, 2).exit_code == 0
    assert (tmp_path / "s-train-2.png").is_file()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["48"], "sample 48 lies outside split 'train'"),
        (["0", "--split", "vla"], "unknown split 'vla'. Did you mean val?"),
        (["0", "-o", "picture.xyz"], "Name it .png or .jpg"),
        ([], "Missing argument"),
    ],
)
def test_show_refuses_what_it_cannot_show(store: Store, words: list[str], text: str) -> None:
    told = run("show", store.url, *words)
    assert told.exit_code == 2
    assert text in told.stderr


def test_what_is_no_store_is_refused_by_every_command(command: list[str], tmp_path: Path) -> None:
    told = run(*command, tmp_path, *(["0"] if command == ["show"] else []))
    assert told.exit_code == 2
    assert "is no token store" in told.stderr
    assert told.stdout == ""

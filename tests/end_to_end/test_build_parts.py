"""A build in steps: plan, stripes on several machines, status, finish; the bytes of one command."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import tokenstore
from tests.toy_images import write_corpus
from tokenstore.build.engine import Job, Stripe
from tokenstore.cli.main import main
from tokenstore.errors import BuildError, UsageError
from tokenstore.storage import LocalStorage
from tokenstore.tokenizers.base import Tokenizer

pytestmark = pytest.mark.usefixtures("toy_tokenizer")
SMALL = ("--tokenizer", "toy", "--part-size", "4", "--batch-size", "3")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def ran(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result


def told(*words: object) -> dict[str, object]:
    facts: dict[str, object] = json.loads(ran(*words, "--json").stdout)
    return facts


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Ten images to train on, of which one is broken, and four others: parts 4+4+3 and 4."""
    folder = write_corpus(tmp_path / "photos", {"train": 10, "val": 4})
    (folder / "train" / "apple" / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def whole(corpus: Path, tmp_path: Path) -> dict[str, bytes]:
    ran("build", corpus, "-o", tmp_path / "whole", *SMALL)
    return tree(tmp_path / "whole")


def test_stripes_in_any_order_and_finish_give_the_bytes_of_one_command(
    corpus: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "s"
    plan = told("plan", corpus, "-o", out, *SMALL)
    assert [part["images"] for part in plan["parts"]] == [4, 4, 3, 4]
    assert not out.exists()
    done = [told("build", corpus, "-o", out, *SMALL, "--part", f"{i}/3") for i in (2, 1, 0)]
    assert [stripe["parts"] for stripe in done] == [1, 1, 2]
    finished = told("finish", out)
    assert finished["fingerprint"] == tokenstore.open(out).fingerprint
    assert finished["images"] == sum(len(split) for split in tokenstore.open(out).values())
    assert tree(out) == whole
    assert not Path(f"{out}.building").exists()
    assert told("finish", out)["new"] is False
    assert told("build", corpus, "-o", out, *SMALL)["new"] is False


def test_stripes_need_no_plan_before_them_and_a_plain_build_takes_up_what_they_did(
    corpus: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "s"
    assert told("build", corpus, "-o", out, *SMALL, "--part", "1/2")["tokenized"] == 8
    assert told("build", corpus, "-o", out, *SMALL)["tokenized"] == 7
    assert tree(out) == whole


def test_stripes_are_counted_from_zero_or_from_one() -> None:
    assert [Stripe.parse(f"{i}/3") for i in range(4)] == [(0, 3), (1, 3), (2, 3), (0, 3)]
    for wrong in ("3", "4/3", "0/0", "a/b", "-1/3"):
        with pytest.raises(UsageError, match="I/N"):
            Stripe.parse(wrong)


def test_status_tells_what_is_done_missing_and_rejected_and_how_long_still(
    corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    assert "no whole plan" in refusal(run("status", out))
    ran("plan", corpus, "-o", out, *SMALL)
    facts = told("status", out)
    assert (facts["parts"], facts["parts_done"], facts["images"]) == (4, 0, 15)
    assert (facts["images_per_second"], facts["seconds_left"]) == (None, None)
    ran("build", corpus, "-o", out, *SMALL, "--part", "0/2")
    facts = told("status", out)
    assert (facts["parts_done"], facts["images_done"]) == (2, 7)
    assert facts["missing"] == ["train-000001", "val-000000"]
    assert facts["images_per_second"] > 0
    assert facts["seconds_left"] == pytest.approx(8 / facts["images_per_second"])
    assert "missing  2  (train-000001; val-000000)" in ran("status", out).stdout
    refused = refusal(run("finish", out))
    assert "2 of 4 parts are missing: train-000001, val-000000" in refused
    ran("build", corpus, "-o", out, *SMALL, "--part", "1/2")
    facts = told("status", f"{out}.building")
    assert [reject["path"] for reject in facts["rejects"]] == ["train/apple/broken.jpg"]
    assert f"next:  tokenstore finish {out}" in ran("status", out).stdout
    ran("finish", out)
    assert "is whole: 14 images in 4 shards" in ran("status", out).stdout


def test_the_plan_is_a_pure_function_of_listing_and_options(corpus: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        ran("plan", corpus, "-o", tmp_path / name, *SMALL)
    assert tree(tmp_path / "a.building") == tree(tmp_path / "b.building")
    seeded = told("plan", corpus, "-o", tmp_path / "c", *SMALL, "--seed", "1")
    assert seeded["hash"] != json.loads((tmp_path / "a.building" / "plan.json").read_text())["hash"]


def test_a_stripe_of_other_options_than_the_plan_is_refused(corpus: Path, tmp_path: Path) -> None:
    ran("plan", corpus, "-o", tmp_path / "s", *SMALL)
    other = run("build", corpus, "-o", tmp_path / "s", *SMALL, "--codec", "gzip", "--part", "0/2")
    assert 'codec: "gzip", was "zstd"' in refusal(other)


def test_input_that_changed_since_the_plan_is_reported(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    ran("plan", corpus, "-o", out, *SMALL)
    before = tree(Path(f"{out}.building"))
    gone = corpus / "train" / "pear" / "photo_001.jpg"
    content = gone.read_bytes()
    gone.unlink()
    (corpus / "val" / "apple" / "new.jpg").write_bytes(content)
    refused = refusal(run("build", corpus, "-o", out, *SMALL))
    assert "1 new, 1 gone, e.g. 'apple/new'" in refused
    assert tree(Path(f"{out}.building")) == before
    refused = refusal(run("build", corpus, "-o", out, *SMALL, "--part", "0/1"))
    assert "'train/pear/photo_001.jpg' is gone" in refused
    gone.write_bytes(content + b"more")
    refused = refusal(run("build", corpus, "-o", out, *SMALL, "--part", "0/1"))
    assert f"has {len(content) + 4:,} bytes, not {len(content):,}" in refused


def test_a_damaged_file_of_the_plan_is_named_and_the_cure_works(
    corpus: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "s"
    ran("plan", corpus, "-o", out, *SMALL)
    (tmp_path / "s.building" / "plan" / "train-000001.jsonl.zst").write_bytes(b"")
    assert "train-000001.jsonl.zst' is gone or damaged" in refusal(
        run("build", corpus, "-o", out, *SMALL, "--part", "0/1")
    )
    (tmp_path / "s.building" / "plan" / "outline.json").unlink()
    ran("build", corpus, "-o", out, *SMALL)
    assert tree(out) == whole


def test_two_builders_at_once_do_not_spoil_each_other(
    corpus: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    program = "from tokenstore.cli.main import main; main()"
    words = [sys.executable, "-c", program, "build", str(corpus), "-o", str(tmp_path / "s"), *SMALL]
    builders = [subprocess.Popen(words, stderr=subprocess.PIPE) for _ in range(2)]
    ends = [builder.communicate()[1].decode() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0], ends
    assert tree(tmp_path / "s") == whole
    assert not (tmp_path / "s.building").exists()


def test_a_builder_that_is_overtaken_says_that_the_store_is_whole(
    corpus: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenstore.build import run as running

    out, tokenize = tmp_path / "s", running.tokenize_here

    def overtaken(*words: object) -> object:
        monkeypatch.setattr(running, "tokenize_here", tokenize)
        ran("build", corpus, "-o", out, *SMALL)
        return tokenize(*words)

    monkeypatch.setattr(running, "tokenize_here", overtaken)
    assert "is whole already" in ran("build", corpus, "-o", out, *SMALL).stdout
    assert tree(out) == whole
    assert not Path(f"{out}.building").exists()


def test_sigterm_ends_a_build_cleanly_and_the_same_line_continues(
    corpus: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    program = (
        "import os, signal, tests.toy_tokenizer as toy\n"
        "encode, seen = toy.ToyTokenizer.encode, []\n"
        "def terminating(self, images):\n"
        "    seen.append(len(images))\n"
        "    if len(seen) == 4:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return encode(self, images)\n"
        "toy.ToyTokenizer.encode = terminating\n"
        "from tokenstore.cli.main import main\n"
        "main()\n"
    )
    words = ["build", str(corpus), "-o", str(tmp_path / "s"), *SMALL]
    ended = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr.strip().splitlines()[-1].startswith("ended by SIGTERM; the same command")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "s" / "manifest.json").exists()
    assert not list((tmp_path / "s.building").rglob("*.partial"))
    ran("build", corpus, "-o", tmp_path / "s", *SMALL)
    assert tree(tmp_path / "s") == whole


@pytest.mark.parametrize("suffix", ["train-000001.safetensors", "train-000001.json", ".tar"])
def test_a_disk_that_becomes_full_says_so_and_the_same_line_continues(
    corpus: Path,
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    writing = LocalStorage.writing

    def full(self: LocalStorage, name: str) -> object:
        if name.endswith(suffix):
            raise OSError(errno.ENOSPC, "No space left on device")
        return writing(self, name)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "writing", full)
        told = refusal(run("build", corpus, "-o", tmp_path / "s", *SMALL))
    assert "no room is left for" in told
    assert "Make room and run the same line again" in told
    assert len(told) < 500
    ran("build", corpus, "-o", tmp_path / "s", *SMALL)
    assert tree(tmp_path / "s") == whole


def test_a_packed_shard_that_is_damaged_before_the_end_is_made_again(
    corpus: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenstore.build import pack

    def stop(*words: object) -> None:
        raise BuildError("stopped before the manifest")

    with monkeypatch.context() as patched:
        patched.setattr(pack, "publish", stop)
        assert "stopped before" in refusal(run("build", corpus, "-o", tmp_path / "s", *SMALL))
    shard = tmp_path / "s" / "train-000001.tar"
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.tar") if p != shard}
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    ran("finish", tmp_path / "s")
    assert tree(tmp_path / "s") == whole
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_several_devices_share_the_parts(
    corpus: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenstore.build import local

    def another(job: Job) -> list[Tokenizer]:
        return [job.load_on("cpu")]

    monkeypatch.setattr(local, "_other_tokenizers", another)
    ran("build", corpus, "-o", tmp_path / "s", *SMALL)
    assert tree(tmp_path / "s") == whole
    broken = run("build", corpus, "-o", tmp_path / "t", *SMALL, "--strict")
    assert "broken.jpg" in refusal(broken)

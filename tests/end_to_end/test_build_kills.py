"""kill -9 at random moments of every phase of a build; the same line then gives the same bytes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy_images import write_corpus

pytestmark = [pytest.mark.kill, pytest.mark.timeout(900), pytest.mark.usefixtures("toy_tokenizer")]
POINTS = 36
PHASES = {
    "planning": (".building/plan",),
    "tokenizing": (".building/parts/",),
    "packing": ("/train-", "/val-", ".building/packed/", "/vocabulary", "/tables", "/rejects"),
    "publishing": ("/manifest",),
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_build_that_is_killed_anywhere_continues_to_the_same_bytes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "photos", {"train": 10, "val": 4})
    (corpus / "train" / "apple" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    words = [str(corpus), "--tokenizer", "toy", "--part-size", "4", "--workers", "1"]
    words += ["--batch-size", "3"]
    program = "from tests.killed_builds import main; main()"
    words = [sys.executable, "-c", program, str(tmp_path / "out"), "7", str(POINTS), *words]
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    killed = list(map(json.loads, ran.stdout.splitlines()))
    assert len(killed) == POINTS + 3
    assert all(build["killed"] == signal.SIGKILL and build["again"] == 0 for build in killed)
    whole = tree(tmp_path / "out" / "whole")
    for number, build in enumerate(killed):
        place = tmp_path / "out" / f"killed-{number:03d}"
        assert tree(place) == whole, build
        assert not Path(f"{place}.building").exists(), build
    seen = {build["last"].partition(" ")[2].replace("/.", "/") for build in killed}
    for phase, starts in PHASES.items():
        assert any(name.startswith(starts) for name in seen), f"no kill while {phase}: {seen}"
    assert any(build["last"].startswith(("os.remove", "os.rmdir")) for build in killed)

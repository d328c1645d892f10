"""`build --engine ray` on a cluster of two nodes: the bytes of one process, whoever dies.

Skipped where Ray is not installed; the cluster is a process of its own (tests/ray_nodes.py).
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.toy_images import write_corpus
from tokenstore.build.plan import BuildOptions
from tokenstore.build.ray import Desk, Encoder, Making, desks
from tokenstore.build.run import TokenizerMaker
from tokenstore.cli.main import main
from tokenstore.errors import BuildError
from tokenstore.sources import open_source

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs ray; pip install 'tokenstore[ray]'"
)
cluster_test = [pytest.mark.cluster, needs_ray, pytest.mark.timeout(900)]
SMALL = ("--tokenizer", "toy", "--part-size", "4", "--batch-size", "4")
PROGRAM = "from tokenstore.cli.main import main; main()"


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def nodes(toy_tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """The program that runs the cluster, whose workers are slow enough to be met at work."""
    monkeypatch.setenv("TOY_SECONDS", "0.5")
    words = [sys.executable, "-m", "tests.ray_nodes"]
    program = subprocess.Popen(words, stdin=-1, stdout=-1, text=True, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("RAY_ADDRESS", str(program.stdout.readline().strip()))
    yield program
    program.stdin.close()
    program.wait(60)
    program.stdout.close()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = write_corpus(tmp_path / "photos", {"train": 60, "val": 9})
    (folder / "train" / "apple" / "broken.jpg").write_bytes(b"no image")
    return folder


def start(corpus: Path, out: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", PROGRAM, "build", str(corpus), "-o", str(out), *SMALL]
    return subprocess.Popen([*words, "--engine", "ray"], stderr=subprocess.PIPE, text=True)


def wait_for_parts(build: subprocess.Popen[str], out: Path, count: int) -> None:
    while len(list(Path(f"{out}.building").glob("parts/*.json"))) < count:
        assert build.poll() is None, build.communicate()[1]
        time.sleep(0.1)


def finish(build: subprocess.Popen[str], out: Path, corpus: Path) -> None:
    """The build ends well, with the bytes of a build without Ray."""
    told = build.communicate()[1]
    assert build.returncode == 0, told
    assert "rejected train/apple/broken.jpg" in told
    os.environ.pop("TOY_SECONDS")
    words = ["build", str(corpus), "-o", str(out.with_name("whole")), *SMALL]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert tree(out) == tree(out.with_name("whole"))
    assert not Path(f"{out}.building").exists()


def encoders() -> list[int]:
    """Processes of actors on this machine."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if place.read_bytes().startswith(b"ray::Encoder"):
                found.append(int(place.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


class TestOnACluster:
    """Each with a cluster of its own, since it is broken afterwards."""

    pytestmark = cluster_test

    def test_a_node_that_is_killed_costs_nothing(
        self, nodes: subprocess.Popen[str], corpus: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "s"
        build = start(corpus, out)
        wait_for_parts(build, out, 3)
        nodes.stdin.write("kill-node\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline() == "killed\n"
        assert build.poll() is None
        finish(build, out, corpus)

    def test_a_worker_that_is_killed_costs_nothing(
        self, nodes: subprocess.Popen[str], corpus: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "s"
        build = start(corpus, out)
        wait_for_parts(build, out, 2)
        os.kill(encoders()[0], signal.SIGKILL)
        finish(build, out, corpus)


def node(name: str, alive: bool = True, **resources: float) -> dict[str, object]:
    return {"NodeID": name, "Alive": alive, "Resources": {"memory": 1e9, **resources}}


def test_actors_leave_a_core_of_their_node_free_and_dead_nodes_get_none() -> None:
    cluster = [node("a", CPU=16, GPU=2), node("b", alive=False, CPU=8), node("c", CPU=1), node("d")]
    assert list(desks(cluster, "cpu")) == [Desk("a", 0, 15, 0), Desk("c", 0, 1, 0)]
    assert list(desks(cluster, "cuda")) == [Desk("a", 0, 7, 1), Desk("a", 1, 7, 1)]


@pytest.fixture
def encoder(toy_tokenizer: str, tmp_path: Path) -> Encoder:
    """What an actor is, without Ray, for a build that is planned."""
    corpus = write_corpus(tmp_path / "photos", {"train": 10})
    words = ["plan", str(corpus), "-o", str(tmp_path / "s"), *SMALL]
    assert CliRunner().invoke(main, words).exit_code == 0
    making = Making(open_source(str(corpus)), TokenizerMaker(BuildOptions(toy_tokenizer)))
    return Encoder(making, str(tmp_path / "s.building"), str(Path.cwd()), Desk("a", 0, 1, 0))


def test_an_actor_does_the_parts_that_nobody_has_done(encoder: Encoder) -> None:
    assert encoder.ready() == []
    slots = encoder.bench.plan.slots()
    first = encoder.tokenize(slots[:1])
    assert [report.name for report in first] == ["train-000000"]
    again = encoder.tokenize(slots)
    assert [report.count for report in again] == [4, 4, 2]
    assert (again[0].began, again[0].ended) == (first[0].began, first[0].ended)


def test_a_node_with_other_versions_is_refused(encoder: Encoder) -> None:
    plan = Path(encoder.staging_url) / "plan.json"
    facts = json.loads(plan.read_text())
    facts["versions"]["numpy"] = "0.1"
    plan.write_text(json.dumps(facts))
    with pytest.raises(BuildError, match=r"other versions than the plan: numpy: .*, was \"0\.1\""):
        encoder.ready()


def test_without_ray_the_engine_says_what_to_install(
    toy_tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "photos", {"train": 2})
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["build", str(corpus), "-o", str(tmp_path / "s"), *SMALL, "--engine", "ray"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "pip install 'tokenstore[ray]'" in result.stderr

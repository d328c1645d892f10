"""The loader inside what people have: torch's and torchdata's DataLoader, DDP, numpy, pickles."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import Mismatch
from tokenstore.loader import TokenLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata 0.11
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
COUNT = 37


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    folder = tmp_path_factory.mktemp("works") / "s"
    return write_toy_store(folder, ToyStore({"train": COUNT}))["train"]


def batches_of(train, **options):
    return [batch.index for batch in TokenLoader(train, batch_size=4, device="cpu", **options)]


@pytest.mark.parametrize("residency", ["stream", "ram"])
@pytest.mark.parametrize(
    ("workers", "start"),
    [
        (0, None),
        (1, "fork"),
        (3, "fork"),
        pytest.param(1, "spawn", marks=pytest.mark.slow),
        pytest.param(3, "spawn", marks=pytest.mark.slow),
    ],
)
def test_torch_s_dataloader_gives_the_same_batches_in_the_same_order(
    train, residency, workers, start
):
    loader = TokenLoader(train, batch_size=4, device="cpu", residency=residency)
    wrapped = DataLoader(
        loader, batch_size=None, num_workers=workers, multiprocessing_context=start
    )
    for epoch in range(2):
        loader.set_epoch(epoch)
        found = list(wrapped)
        expected = TokenLoader(train, batch_size=4, device="cpu")
        expected.set_epoch(epoch)
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours.index, theirs.index)
            assert torch.equal(ours.ranks, theirs.ranks)


def test_persistent_workers_go_on_to_the_next_epoch(train):
    loader = TokenLoader(train, batch_size=4, device="cpu", residency="stream")
    wrapped = DataLoader(
        loader,
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        persistent_workers=True,
    )
    epochs = [torch.cat([batch.index for batch in wrapped]) for _ in range(2)]
    other = TokenLoader(train, batch_size=4, device="cpu")
    assert [torch.equal(e, torch.cat([b.index for b in other])) for e in epochs] == [True, True]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("taken", [0, 1, 4, 7])
def test_each_worker_s_own_state_resumes_it(train, workers, taken, monkeypatch):
    """What StatefulDataLoader does: a state and a resume for each worker."""
    expected = batches_of(train)
    for worker in range(workers):
        monkeypatch.setattr(
            "tokenstore.loader._this_worker", lambda worker=worker: (worker, workers)
        )
        first = TokenLoader(train, batch_size=4, device="cpu")
        mine = iter(first)
        seen = [batch.index for _, batch in zip(range(taken), mine, strict=False)]
        state = json.loads(json.dumps(first.state_dict()))
        second = TokenLoader(train, batch_size=4, device="cpu")
        second.load_state_dict(state)
        if state["epoch"] == 0:
            seen += [batch.index for batch in second]
        assert [i.tolist() for i in seen] == [i.tolist() for i in expected[worker::workers]]


def test_a_worker_s_state_is_refused_elsewhere(train, monkeypatch):
    monkeypatch.setattr("tokenstore.loader._this_worker", lambda: (1, 3))
    loader = TokenLoader(train, batch_size=4)
    next(iter(loader))
    state = loader.state_dict()
    assert state["worker"] == [1, 3]
    monkeypatch.setattr("tokenstore.loader._this_worker", lambda: None)
    other = TokenLoader(train, batch_size=4)
    other.load_state_dict(state)
    with pytest.raises(Mismatch, match="num_workers=3"):
        next(iter(other))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [3, 10])
def test_torchdata_s_stateful_dataloader_resumes(train, workers, taken):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")

    def wrapped():
        loader = TokenLoader(train, batch_size=4, device="cpu", residency="stream")
        return stateful.StatefulDataLoader(
            loader,
            batch_size=None,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )

    first = wrapped()
    batches = iter(first)
    seen = [next(batches).index for _ in range(taken)]
    state = first.state_dict()
    second = wrapped()
    second.load_state_dict(state)
    rest = [batch.index for batch in second] if taken < 10 else []
    assert torch.equal(torch.cat(seen + rest), torch.cat(batches_of(train)))


def test_numpy_batches_load_no_torch(train):
    program = (
        "import sys, tokenstore.reader as r; from tokenstore.loader import TokenLoader;"
        f"loader = TokenLoader(r.open_store({str(train.store.url)!r})['train'], batch_size=8);"
        "print(sum(int(b.valid.sum()) for b in loader), 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.split() == [str(COUNT), "False"], ran.stderr


TRAINING = """
import json, os, sys
import torch
import torch.distributed as dist
import tokenstore.reader
from tokenstore.loader import TokenLoader

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
train = tokenstore.reader.open_store(sys.argv[1])["train"]
loader = TokenLoader(
    train, batch_size=4, rank=rank, world_size=size, device="cpu", residency=sys.argv[3]
)
seen = []
for number, batch in enumerate(loader):
    if rank == 1 and number == int(sys.argv[4]):
        os._exit(7)
    model(batch.ranks.float().mean((1, 2))[:, None]).sum().backward()
    seen.append(batch.index[batch.valid].tolist())
with open(f"{sys.argv[2]}/{rank}.json", "w") as file:
    json.dump(seen, file)
dist.barrier()
os._exit(0)  # gloo in torch 2.15 at times aborts a process that ends by itself, loader or not
"""


def torchrun(folder, train, residency, dies_at):
    script = folder / "training.py"
    script.write_text(TRAINING, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
            *(f"--master-port={port}", str(script), train.store.url, str(folder)),
            *(residency, str(dies_at)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.dist
@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
def test_two_processes_under_torchrun_see_each_image_once(train, tmp_path, residency):
    ran = torchrun(tmp_path, train, residency, -1)
    assert ran.returncode == 0, ran.stderr
    seen = [json.loads(Path(tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert len(seen[0]) == len(seen[1]) == 5
    assert sorted(i for rank in seen for batch in rank for i in batch) == list(range(COUNT))


@pytest.mark.dist
def test_when_a_process_dies_the_others_end_with_an_error(train, tmp_path):
    ran = torchrun(tmp_path, train, "ram", 2)
    assert ran.returncode != 0
    assert "exitcode" in ran.stderr
    assert not list(tmp_path.glob("*.json")), "nobody can have finished the epoch"

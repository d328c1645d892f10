"""One part: what its file holds, that it is committed whole, and when it is trusted."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_images import write_corpus
from tests.toy_tokenizer import CODES, ToyTokenizer
from tokenstore.build.plan import BuildOptions, Part, make_plan
from tokenstore.build.tokenize import Workbench, finished_part, read_part, tokenize_part
from tokenstore.build.workers import DecodingPool
from tokenstore.preprocess import Preprocess
from tokenstore.sources import open_source
from tokenstore.storage import open_storage

OPTIONS = BuildOptions(tokenizer="toy", batch_size=3, part_size=8)


class Recording(ToyTokenizer):
    """Remembers the sizes of the batches it was given."""

    def __init__(self) -> None:
        super().__init__(Preprocess("center-crop", (32, 32)))
        self.batches: list[int] = []

    def encode(self, images: np.ndarray) -> torch.Tensor:
        self.batches.append(len(images))
        return super().encode(images)


@pytest.fixture
def pool() -> Iterator[DecodingPool]:
    with ThreadPoolExecutor(2) as threads:
        yield DecodingPool(threads, 2)


@pytest.fixture
def bench(tmp_path: Path, pool: DecodingPool) -> Workbench:
    """A part of eight images, of which the third in the final order is no image."""
    source = open_source(str(write_corpus(tmp_path / "in", {"train": 8})))
    tokenizer = Recording()
    plan = make_plan(source.kind, source.listing(), tokenizer, OPTIONS)
    broken = plan.listing.splits["train"][2]
    (tmp_path / "in" / broken.path).write_bytes(b"x" * broken.size)
    return Workbench(plan, source, tokenizer, open_storage(tmp_path / "out"), pool)


def only_part(bench: Workbench) -> Part:
    return next(bench.plan.parts())


def test_a_part_holds_ids_labels_keys_and_counts_of_what_was_kept(bench: Workbench) -> None:
    part = only_part(bench)
    report = tokenize_part(part, bench)
    kept = [item for place, item in enumerate(part.items) if place != 2]
    content = read_part(report, bench.staging)
    assert content.ids.shape == (7, 4, 4)
    assert content.ids.dtype == np.uint16
    assert content.labels.tolist() == [item.label for item in kept]
    assert content.keys == [item.key for item in kept]
    assert content.counts.tolist() == np.bincount(content.ids.ravel(), minlength=CODES).tolist()
    assert (report.count, report.source_bytes) == (7, sum(item.size for item in kept))


def test_ids_are_those_of_the_images_one_by_one(bench: Workbench) -> None:
    part = only_part(bench)
    report = tokenize_part(part, bench)
    tokenizer = bench.tokenizer
    for ids, key in zip(
        *(getattr(read_part(report, bench.staging), n) for n in ("ids", "keys")), strict=True
    ):
        item = next(item for item in part.items if item.key == key)
        alone = tokenizer.encode(tokenizer.preprocess(bench.source.load(item))[None])
        assert np.array_equal(ids, alone[0])


def test_rejects_are_reported_with_reason_and_shorten_only_their_own_batch(
    bench: Workbench,
) -> None:
    part, heard = only_part(bench), []
    report = tokenize_part(part, bench, lambda n, rejects: heard.append((n, len(rejects))))
    assert bench.tokenizer.batches == [2, 3, 2]
    assert heard == [(3, 1), (3, 0), (2, 0)]
    assert [(r.split, r.key, r.reason) for r in report.rejects] == [
        ("train", part.items[2].key, "no JPEG, PNG, WebP or BMP image")
    ]


def test_a_finished_part_is_trusted_and_gives_its_report_back(bench: Workbench) -> None:
    part = only_part(bench)
    report = tokenize_part(part, bench)
    assert finished_part(part, bench.plan.hash, bench.staging) == report


def test_a_part_of_another_plan_is_not_trusted(bench: Workbench) -> None:
    part = only_part(bench)
    tokenize_part(part, bench)
    assert finished_part(part, "0" * 64, bench.staging) is None


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_a_part_with_any_damage_is_not_trusted(bench: Workbench, suffix: str) -> None:
    part = only_part(bench)
    tokenize_part(part, bench)
    name = f"parts/{part.name}.{suffix}"
    sound = bench.staging.read(name)
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 1
    for damaged in (sound[:-1], b"", bytes(flipped)):
        bench.staging.create(name, damaged)
        report = finished_part(part, bench.plan.hash, bench.staging)
        assert report is None or suffix == "json"
    bench.staging.remove(name)
    assert finished_part(part, bench.plan.hash, bench.staging) is None


def test_the_sidecar_comes_last_so_a_part_without_it_is_not_finished(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    create = type(bench.staging).create

    def watch(storage: object, name: str, content: bytes) -> None:
        written.append(name)
        create(storage, name, content)

    monkeypatch.setattr(type(bench.staging), "create", watch)
    tokenize_part(only_part(bench), bench)
    assert written == ["parts/train-000000.safetensors", "parts/train-000000.json"]


def test_doing_a_part_again_writes_the_same_bytes(bench: Workbench) -> None:
    part = only_part(bench)
    first = tokenize_part(part, bench)
    content = bench.staging.read("parts/train-000000.safetensors")
    assert tokenize_part(part, bench) == first
    assert bench.staging.read("parts/train-000000.safetensors") == content


def test_an_error_while_listening_ends_the_work_and_commits_nothing(bench: Workbench) -> None:
    def stop(images: int, rejects: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_part(only_part(bench), bench, stop)
    assert bench.staging.names() == []


def test_the_sidecar_is_json_that_names_its_plan(bench: Workbench) -> None:
    tokenize_part(only_part(bench), bench)
    sidecar = json.loads(bench.staging.read("parts/train-000000.json"))
    assert sidecar["plan"] == bench.plan.hash
    assert sidecar["count"] == 7

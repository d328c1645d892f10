"""A build touches only what is absent, empty or its own; everything else is refused, untouched."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.toy_tokenizer import ToyTokenizer
from tokenstore.build.output import claim_output
from tokenstore.build.plan import BuildOptions, Plan, make_plan
from tokenstore.errors import BuildError
from tokenstore.preprocess import Preprocess
from tokenstore.sources.base import Item, Listing

OPTIONS = BuildOptions(tokenizer="toy")
LISTING = Listing({"train": (Item("a", "a.jpg", None, 7),)}, None)


def plan(seed: int = 0) -> Plan:
    tokenizer = ToyTokenizer(Preprocess("center-crop", (32, 32)))
    return make_plan("image-folder", LISTING, tokenizer, replace(OPTIONS, seed=seed))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_new_place_gets_the_plan_and_nothing_else(tmp_path: Path) -> None:
    output = claim_output(tmp_path / "s", plan())
    assert not output.is_done
    assert tree(tmp_path) == {"s.building/plan.json": plan().as_json().encode()}


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    assert not claim_output(tmp_path / "s", plan()).is_done


def test_an_interrupted_build_of_the_same_plan_is_continued(tmp_path: Path) -> None:
    claim_output(tmp_path / "s", plan())
    (tmp_path / "s.building" / "parts").mkdir()
    (tmp_path / "s.building" / "parts" / "train-000000.json").write_text("{}")
    (tmp_path / "s.building" / ".plan.json.4711.partial").write_text("half")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "train-000000.tar").write_text("half packed")
    assert not claim_output(tmp_path / "s", plan()).is_done
    assert sorted(tree(tmp_path / "s.building")) == ["parts/train-000000.json", "plan.json"]


def test_an_interrupted_build_of_another_plan_is_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    claim_output(tmp_path / "s", plan())
    before = tree(tmp_path)
    with pytest.raises(BuildError, match=r"another plan \(seed: 1, was 0\)"):
        claim_output(tmp_path / "s", plan(seed=1))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "train-000000.tar", "sub/notes.txt"])
def test_a_folder_with_files_is_refused_and_stays_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "s" / name).parent.mkdir(parents=True)
    (tmp_path / "s" / name).write_text("mine")
    with pytest.raises(BuildError, match="no part of this build"):
        claim_output(tmp_path / "s", plan())
    assert tree(tmp_path) == {f"s/{name}": b"mine"}


def test_a_strange_file_in_a_continued_output_is_refused(tmp_path: Path) -> None:
    claim_output(tmp_path / "s", plan())
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").write_text("mine")
    with pytest.raises(BuildError, match=r"holds 'notes\.txt'"):
        claim_output(tmp_path / "s", plan())


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"plan": 0}'])
def test_a_staging_folder_without_a_readable_plan_is_refused(
    tmp_path: Path, content: str | None
) -> None:
    (tmp_path / "s.building").mkdir()
    (tmp_path / "s.building" / "thesis.tex").write_text("mine")
    if content is not None:
        (tmp_path / "s.building" / "plan.json").write_text(content)
    with pytest.raises(BuildError, match="is in the way"):
        claim_output(tmp_path / "s", plan())


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("mine")
    with pytest.raises(BuildError, match="is a file; a store is a folder"):
        claim_output(tmp_path / "s", plan())
    assert tree(tmp_path) == {"s": b"mine"}


def test_a_slash_at_the_end_does_not_put_the_staging_folder_inside(tmp_path: Path) -> None:
    claim_output(f"{tmp_path / 's'}{os.sep}", plan())
    assert sorted(tree(tmp_path)) == ["s.building/plan.json"]


def test_clearing_removes_the_staging_folder_with_everything_in_it(tmp_path: Path) -> None:
    output = claim_output(tmp_path / "s", plan())
    output.staging.create("parts/train-000000.json", b"{}")
    output.clear_staging()
    assert list(tmp_path.iterdir()) == []

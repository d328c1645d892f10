"""`tokenstore tokenizers`: a line for each, a card for one, and both as JSON."""

import importlib.metadata
import json

import pytest
from click.testing import CliRunner

from tokenstore.cli.tokenizers import PACKAGE, command
from tokenstore.errors import UnknownName


def told(*words: str) -> str:
    return CliRunner().invoke(command, list(words), catch_exceptions=False).stdout


def test_each_tokenizer_has_a_line_below_the_heading() -> None:
    heading, *lines = told().splitlines()
    assert heading.split()[:2] == ["name", "stride"]
    pocket = ["pocket", "8", "256x256", "32x32", "1024", "here", "center-crop"]
    assert pocket in [line.split() for line in lines]


def test_the_card_of_one_tells_codebook_and_terms() -> None:
    card = told("pocket")
    assert "1,024 codes of 8 numbers" in card
    assert "non-commercial" in card and "ImageNet terms" in card and "CC BY-NC" in card


def test_the_card_tells_by_which_rule_images_are_resized() -> None:
    assert "resized by center-crop" in told("pocket")
    assert json.loads(told("pocket", "--json"))["preprocess"] == "center-crop"


def test_a_package_that_cannot_be_imported_is_named_and_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = importlib.metadata.EntryPoint("odd", "a_module_that_is_not_there:PLUGIN", PACKAGE)
    found = importlib.metadata.EntryPoints([entry])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found.select(group=group))
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 1
    assert "pocket" in result.stdout and "odd" not in result.stdout
    assert "'odd' of 'a_module_that_is_not_there:PLUGIN' cannot be imported" in result.stderr


def test_json_has_the_same_facts_for_all_and_for_one() -> None:
    facts = json.loads(told("pocket", "--json"))
    assert (facts["grid"], facts["codebook"], facts["available"]) == ([32, 32], [1024, 8], True)
    assert facts in json.loads(told("--json"))


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownName, match="Known: .*pocket"):
        told("packet")

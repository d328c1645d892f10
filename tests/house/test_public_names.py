"""The names that other people's code imports: a change here is a change of the promise."""

import difflib
import importlib
import re

import pytest

from docs import make_api

PROMISED = {
    "tokenstore": ["Batch", "Sample", "Split", "Store", "open"],
    "tokenstore.loader": ["TokenLoader"],
    "tokenstore.tokenizers": ["load_tokenizer"],
    "tokenstore.errors": ["TokenstoreError"],
}


def test_the_top_of_tokenstore_offers_exactly_the_promised_names():
    assert sorted(importlib.import_module("tokenstore").__all__) == PROMISED["tokenstore"]


@pytest.mark.parametrize("module", sorted(PROMISED))
def test_every_promised_name_can_be_imported(module):
    for name in PROMISED[module]:
        assert getattr(importlib.import_module(module), name) is not None


def test_every_error_is_one_of_the_tree():
    errors = importlib.import_module("tokenstore.errors")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = [kind for kind in kinds if kind.__module__ == "tokenstore.errors"]
    assert all(issubclass(kind, errors.TokenstoreError) for kind in ours)
    assert all(kind.__name__ in errors.__doc__ for kind in ours), "draw it in the module's tree"


def test_every_public_signature_is_the_one_that_is_written_down():
    written, found = make_api.PAGE.read_text(encoding="utf-8"), make_api.page()
    changes = difflib.unified_diff(written.splitlines(), found.splitlines(), "api.txt", "sources")
    assert found == written, (
        "public names or signatures changed. If that is meant, tell users in CHANGELOG.md and "
        "write them down: make docs (python -m docs.make_api).\n" + "\n".join(changes)
    )


def test_what_examples_import_is_public(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(
        "from tokenstore.not_code import x\n```python\nfrom tokenstore.index import HEADER\n```\n"
    )
    monkeypatch.setattr(make_api, "ROOT", tmp_path)
    assert make_api.public_modules() == sorted({*make_api.PROMISED, "tokenstore.index"})


def test_promised_names_have_their_signatures_in_the_list():
    pages = make_api.page().split("\n\n")
    for module, names in PROMISED.items():
        (page,) = [page for page in pages if page.startswith(f"{module}\n")]
        missing = [name for name in names if not re.search(rf"\n    (class )?{name}\b", page)]
        assert missing == [], module

"""The names that other people's code imports: a change here is a change of the promise."""

import importlib

import pytest

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

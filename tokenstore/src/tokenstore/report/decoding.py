"""The tokenizer that turns a store's tokens into pictures, or why there is none here.

The reason goes on a page, so it is in words that are the same on every machine; what was said here,
with paths and addresses, is in the error itself.
"""

from typing import Any

from tokenstore.errors import (
    BrokenPlugin,
    Mismatch,
    TokenizerError,
    TokenstoreError,
    UnknownName,
    UsageError,
    WeightsError,
)
from tokenstore.reader import Store

NO_PICTURES = (TokenizerError, UsageError, BrokenPlugin, Mismatch)


def load_decoder(store: Store, weights: str | None, config: str | None) -> Any:
    """The tokenizer that made the store.

    Raises:
        UnknownName: the store does not say which, or it is not installed.
        TokenizerError: its weights are missing or of another model.
        Mismatch: it is another tokenizer.
    """
    if not store.manifest.preprocess:
        raise UsageError(f"'{store.url}' does not say which tokenizer made its tokens")
    return store.tokenizer(weights=weights, config=config)


def problem_of(store: Store, error: TokenstoreError) -> str:
    """Why there are no pictures, without a path or an address of this machine."""
    name = store.manifest.tokenizer.name
    if not store.manifest.preprocess:
        return "The store does not say which tokenizer made its tokens."
    if isinstance(error, WeightsError):
        return f"The weights of its tokenizer '{name}' are missing here; --weights names them."
    if isinstance(error, UnknownName):
        return f"Its tokenizer '{name}' is not installed here."
    return f"Its tokenizer '{name}' cannot be used here."

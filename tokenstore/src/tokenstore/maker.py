"""The tokenizer that made a store, found by the name in its manifest.

By name, so that reading alone never imports torch: a machine that only reads never comes here.
"""

import importlib
from typing import Any

from tokenstore.errors import UsageError
from tokenstore.manifest import Manifest


def load_maker(
    manifest: Manifest,
    url: str,
    device: str = "cpu",
    weights: str | None = None,
    config: str | None = None,
    precision: str = "fp32",
) -> Any:
    """The tokenizer of a store; needs tokenstore[build].

    Args:
        manifest: of the store.
        url: of the store, for messages.
        device: torch device that decodes and encodes.
        weights: file or URL of its weights; None means the tokenizer's own place.
        config: file of its architecture, for weights that cannot tell it.
        precision: arithmetic of its networks.

    Raises:
        UnknownName: no such tokenizer is installed.
        UsageError: what it needs is not installed, or nobody knows which it was: the store was
            imported without its name.
        WeightsError: its weights are missing.
        Mismatch: weights or settings are not the ones that made the store.
    """
    entry = manifest.tokenizer
    rules = importlib.import_module("tokenstore.preprocess")
    tokenizers = importlib.import_module("tokenstore.tokenizers")
    rule = rules.Preprocess.from_json(manifest.preprocess)
    try:
        tokenizer = tokenizers.load_tokenizer(
            entry.name, weights, config=config, device=device, precision=precision, preprocess=rule
        )
    except ModuleNotFoundError as error:
        raise UsageError(
            f"decoding images needs {error.name}; pip install 'tokenstore[build]'"
        ) from error
    tokenizer.check_made(f"store '{url}'", entry.model_dump())
    return tokenizer

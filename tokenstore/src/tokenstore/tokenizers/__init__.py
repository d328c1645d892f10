"""Tokenizers: one file a family, found by name; `load_tokenizer` is the way in."""

from typing import TYPE_CHECKING

from tokenstore import registry

if TYPE_CHECKING:
    from tokenstore.preprocess import Preprocess
    from tokenstore.tokenizers.base import Precision, Tokenizer


def load_tokenizer(
    name: str,
    weights: str | None = None,
    *,
    config: str | None = None,
    device: str = "cpu",
    precision: "Precision" = "fp32",
    preprocess: "Preprocess | None" = None,
) -> "Tokenizer":
    """Load a tokenizer by the name it has on the command line.

    Args:
        name: e.g. "pocket"; `tokenstore tokenizers` lists them.
        weights: file of the weights; None means the tokenizer's own place.
        config: file with the architecture, for families that need one.
        device: torch device that encodes and decodes.
        precision: arithmetic of the networks.
        preprocess: resize rule and resolution; None means the tokenizer's default.

    Raises:
        UnknownName: no tokenizer of that name.
        WeightsError: the weights are missing, damaged or of another model.
    """
    from tokenstore.tokenizers.base import LoadRequest

    request = LoadRequest(name, weights, config, device, precision, preprocess)
    tokenizer: Tokenizer = registry.find("tokenstore.tokenizers", name).load(request)
    return tokenizer

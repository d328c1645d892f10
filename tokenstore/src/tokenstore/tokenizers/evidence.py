"""What a weights file and its yaml tell of a network's shape, and the refusal where they differ.

Between the readers of files and the families: a family asks for sizes of tensors and for settings,
and says which of them belong together. The tensors are right where both speak; a yaml that
contradicts them belongs to another model.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokenstore.errors import WeightsError
from tokenstore.tokenizers.model_yaml import ModelYaml


@dataclass(frozen=True)
class Evidence:
    """The tensors of one file by their published names, and the yaml that came with it."""

    tensors: Mapping[str, torch.Tensor]
    file: Path
    yaml: ModelYaml | None = None

    def size(self, name: str, dimensions: int) -> torch.Size:
        """Shape of a tensor.

        Raises:
            WeightsError: it is missing, empty, or has another number of dimensions.
        """
        if name not in self.tensors:
            raise WeightsError(
                f"'{self.file}' lacks '{name}': it is incomplete, or holds another kind of model."
            )
        shape = self.tensors[name].shape
        if len(shape) != dimensions or 0 in shape:
            raise WeightsError(
                f"'{self.file}': tensor '{name}' is {list(shape)}, expected {dimensions} "
                "dimensions, none of them empty. It was made for another network."
            )
        return shape

    def said(self, key: str) -> Any:
        """What the yaml says for a dotted key ("ddconfig.ch"); None where it says nothing.

        Raises:
            WeightsError: a part of the key has a value where settings are expected.
        """
        value: Any = self.yaml.params if self.yaml else {}
        words = key.split(".")
        for depth, word in enumerate(words):
            if not isinstance(value, Mapping):
                raise WeightsError(
                    f"{self.said_so} {'.'.join(words[:depth])} is {value!r}, expected settings by "
                    "name."
                )
            value = value.get(word, None if word == words[-1] else {})
        return value

    def check(self, found: Mapping[str, Any]) -> None:
        """Refuse a yaml that says other values than these, which the tensors have.

        Raises:
            WeightsError: names the key and both values.
        """
        for key, value in found.items():
            if self.said(key) not in (None, value):
                raise self.contradicted(key, repr(value))

    def contradicted(self, key: str, found: str) -> WeightsError:
        """The error of a yaml whose `key` differs from what was found in the weights."""
        return WeightsError(
            f"{self.said_so} {key} is {self.said(key)!r}, but the weights in '{self.file}' have "
            f"{found}: give the yaml that belongs to these weights."
        )

    @property
    def said_so(self) -> str:
        """How an error about the yaml begins."""
        return f"'{self.yaml.file}' says" if self.yaml else "no yaml says"


def count_members(names: Iterable[str], prefix: str) -> int:
    """How many numbered members begin with a prefix: `["a.0.x", "a.1.x", "a.1.y"], "a" -> 2`."""
    member = re.compile(rf"{re.escape(prefix)}\.([0-9]+)\.")
    return len({found[1] for name in names if (found := member.match(name))})

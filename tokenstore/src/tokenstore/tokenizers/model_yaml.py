"""The yaml that lies beside a published checkpoint: the parameters of its network, as data.

Read where tensors cannot tell a setting, and to catch a yaml of another model. Such files name
classes under `target`; here that is a word to compare, nothing is built from it. What the
parameters mean is the business of a tokenizer's family.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tokenstore.errors import WeightsError

MOST_VALUES = 10_000


@dataclass(frozen=True)
class ModelYaml:
    """Parameters of a model.

    Attributes:
        file: where they came from.
        target: dotted name of the upstream class; None where the file gives plain parameters.
        params: as nested in the file.
    """

    file: Path
    target: str | None
    params: dict[str, Any]


def read_model_yaml(file: Path) -> ModelYaml:
    """Read `{model: {target, params}}`, `{target, params}`, `{params}` or plain parameters.

    Raises:
        WeightsError: no such file, no yaml, or none of these forms.
    """
    content = _load(file)
    _require_moderate(content, file)
    content = _mapping(content, "the file", file)
    if "model" in content:
        content = _mapping(content["model"], "'model'", file)
    target = content.get("target")
    if target is not None and not isinstance(target, str):
        kind = type(target).__name__
        raise WeightsError(f"'{file}': 'target' is a {kind}, expected the name of a class.")
    if "params" in content:
        content = _mapping(content["params"], "'params'", file)
    elif target is not None:
        raise WeightsError(
            f"'{file}': 'target' is {target}, but no 'params' stand beside it. Pass the yaml that "
            "was published with the weights."
        )
    return ModelYaml(file, target, content)


def _load(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"there is no file '{file}'. Check --config.") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"'{file}' cannot be read as yaml ({error}). Check --config.") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"'{file}' is no plain yaml ({reason}). Check --config.") from error


def _require_moderate(content: Any, file: Path) -> None:
    """Refuse aliases of aliases, a few lines that unfold to milliards of values."""
    waiting, seen = [content], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        inside = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list)):
            waiting.extend(inside)
        if seen > MOST_VALUES:
            raise WeightsError(
                f"'{file}' has more than {MOST_VALUES:,} values, which no model's parameters have. "
                "Pass the yaml that was published with the weights."
            )


def _mapping(value: Any, what: str, file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        held = "nothing" if value is None else f"a {type(value).__name__}"
        raise WeightsError(
            f"'{file}': {what} holds {held}, expected the parameters of a model. Pass the yaml "
            "that was published with the weights."
        )
    return {str(key): item for key, item in value.items()}

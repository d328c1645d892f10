"""The transformer inside a trained model, and what it makes of images: for several sections.

The first `TokenViT` of a model is its encoder, whatever stands behind it. Inputs come from the
task's policy, plain or augmented, without the mixing of images, which has no single name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from seit_train.augment.compose import Policy
from seit_train.data import TokenBatch
from seit_train.evaluate.trained import Trained
from seit_train.models.vit import TokenViT

MIXING = ("cutmix", "mixup")


def encoder_of(trained: Trained) -> TokenViT | None:
    """The encoder, or None where there is none that a policy feeds."""
    if not isinstance(getattr(trained.task, "policy", None), Policy):
        return None
    found = (module for module in trained.model.modules() if isinstance(module, TokenViT))
    return next(found, None)


def policy_of(trained: Trained) -> Policy:
    """The policy of the run's task.

    Raises:
        TypeError: it has none; `encoder_of` says so first.
    """
    policy = getattr(trained.task, "policy", None)
    if not isinstance(policy, Policy):
        raise TypeError(f"task {trained.task.name} has no policy")
    return policy


def unmixed(trained: Trained) -> Policy:
    """The run's augmentations without what mixes two images."""
    policy = policy_of(trained)
    entries = without_mixing(getattr(trained.run.config, "augment", ()))
    return Policy(entries, trained.task.facts.surroundings, policy.embed, policy.output)


def without_mixing(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """[{"eda": {}}, {"cutmix": {}}] -> [{"eda": {}}]; below `halves` and `one_of` too."""
    kept = []
    for entry in entries:
        name, options = next(iter(entry.items()))
        if name not in MIXING:
            kept.append({name: {k: _below(k, v) for k, v in dict(options or {}).items()}})
    return kept


def _below(key: str, value: Any) -> Any:
    """Options without mixing: lists of entries are searched, alphas of mixing become 0."""
    if key in MIXING:
        return 0.0
    is_policy = isinstance(value, list | tuple) and all(isinstance(one, Mapping) for one in value)
    return without_mixing(value) if is_policy else value


def features(encoder: TokenViT, tokens: Tensor) -> Tensor:
    """What the head reads: a batch as the stem takes it -> float32 [B,width]."""
    patches = encoder.tokenize(tokens)
    encoded = encoder.encode(patches + encoder.pos_embed[:, 1:].to(patches.dtype))
    pooled: Tensor = encoder.norm(encoded[:, 1:].mean(dim=1))
    return pooled.float()


def last_attention(encoder: TokenViT, tokens: Tensor) -> Tensor:
    """Attention of the last block, float32 [B,heads,1+N,1+N]; rows are queries and sum to 1.

    Recomputed from the block's input, since fused kernels give no weights away.
    """
    block, seen = encoder.blocks[-1], []
    hook = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        encoder(tokens)
    finally:
        hook.remove()
    attention = block.get_submodule("attn")
    normed = block.get_submodule("norm1")(seen[0])
    batch, count, width = normed.shape
    heads = cast(int, attention.num_heads)
    projected = attention.get_submodule("qkv")(normed).view(batch, count, 3, heads, width // heads)
    query, key, _ = projected.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (query @ key.transpose(-2, -1)).float() * (width // heads) ** -0.5
    weights: Tensor = scores.softmax(dim=-1)
    return weights


def augmented(policy: Policy, batch: TokenBatch, seed: int) -> Tensor:
    """A batch through a policy, drawn from this seed."""
    device = batch.ranks.device
    rng = torch.Generator(device).manual_seed(seed)
    tokens: Tensor = policy.to(device)(batch.ranks, None, rng).tokens
    return tokens

"""Cross-entropy of many tokens over a large vocabulary, in blocks that fit the caches.

Log-softmax of all tokens of a batch at once was a third of a step on a CPU: larger blocks come
fresh from the system each time, page by page (docs/log.md). It is the same sum either way.
"""

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 2**21  # logits at a time: 8 MB in float32


def cross_entropy(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Nats of each token.

    Args:
        logits: float [..., K], of any precision.
        targets: int64 [...].
        smoothing: share of the target that all of the vocabulary has in common.

    Returns:
        Float32 [...].
    """
    step = max(1, _BLOCK // logits.shape[-1])
    pairs = zip(logits.flatten(0, -2).split(step), targets.flatten().split(step), strict=True)
    losses = [
        functional.cross_entropy(x.float(), y, reduction="none", label_smoothing=smoothing)
        for x, y in pairs
    ]
    return torch.cat(losses).view(targets.shape)

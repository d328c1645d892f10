"""Augmentations of token grids, batched on the device; one file a kind, found by name."""

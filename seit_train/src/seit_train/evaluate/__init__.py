"""Evaluation of finished runs: on a split of a store, or on folders of pictures."""

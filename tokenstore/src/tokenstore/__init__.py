"""tokenstore: image corpora as VQ tokens."""

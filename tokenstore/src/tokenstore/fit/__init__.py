"""Training a small tokenizer on a user's own images: the work of `tokenstore fit`."""

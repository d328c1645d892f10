"""Ways of learning from masked tokens, a file each; `base.py` is their law."""

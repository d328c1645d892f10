"""Codecs: one file a way to write ranks as bytes, found by name; the law is in base."""

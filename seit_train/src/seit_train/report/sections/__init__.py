"""Sections of the report of runs: one thing to look at a file; base.py is the law."""

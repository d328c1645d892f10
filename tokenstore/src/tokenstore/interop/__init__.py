"""Stores from and to other people's files of tokens: one file a format, found by name.

`importing` and `exporting` run them; `base` is what a format must keep, `card`, `codebook`,
`labels`, `arrays` and `layout` are what several formats share.
"""

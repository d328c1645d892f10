"""Building a store: plan -> parts of ids -> vocabulary and shards -> manifest.

`plan` fixes what will be made, `decode` reads pictures ahead of the encoder, `tokenize` turns one
part of the images into one file of ids, `local` calls it for every part, `pack` makes the shards,
`output` guards the place of the store, and `run` is the whole build in order.
"""

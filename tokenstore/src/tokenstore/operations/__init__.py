"""What is done with stores that are there: more images, several into one, another form or a subset.

`append` tokenizes images into a new version of a store, `merge` makes one store of several, and
`convert` one of another. The latter two choose samples (`selection`, `repeated`) and hand them to
`repack`, which writes them shard by shard, continues after an interruption, and holds no more than
a few blocks of images at a time. All of it stands on `build`, and changes no file of a whole store.
"""

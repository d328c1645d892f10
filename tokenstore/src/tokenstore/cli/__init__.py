"""The commands of `tokenstore`: one file a command; `main` finds them by their file names."""

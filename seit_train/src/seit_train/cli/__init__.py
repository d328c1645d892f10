"""The commands of `seit-train`: one file a verb, found by its name."""

"""Tasks: one file a thing to learn, found by name; the law is in base."""

"""`seit-train classify`: classification, from scratch or from another run."""

from seit_train.cli.main import training_command

command = training_command(
    "classify",
    "Learn to classify the images of STORE.",
    next_command="seit-train evaluate {run} --store {store}",
)

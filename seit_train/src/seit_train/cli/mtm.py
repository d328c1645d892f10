"""`seit-train mtm`: masked token modelling."""

from seit_train.cli.main import training_command

command = training_command(
    "mtm",
    "Learn to predict masked tokens of STORE, without labels.",
    next_command="seit-train classify {store} -o {run}-classify --init {run}",
)

"""`seit-train pixels`: classification from the pictures themselves, the stage after tokens."""

from seit_train.cli.main import training_command

command = training_command(
    "pixels",
    "Learn to classify the pictures of IMAGES, a folder of class folders or one with train/ and "
    "val/ in it. With --init of a run on tokens this is the last stage of SeiT: everything goes "
    "over but the stem.",
    next_command="seit-train evaluate {run} --images {store}",
    corpus="IMAGES",
)

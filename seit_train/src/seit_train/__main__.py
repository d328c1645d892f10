"""`python -m seit_train`: the `seit-train` command, as torchrun wants it."""

from seit_train.cli.main import main

if __name__ == "__main__":
    main()

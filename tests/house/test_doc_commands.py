"""Every command in README.md and docs/ exists, with its options, values, recipes and settings."""

import importlib
import importlib.util
import re

import click
import pytest

from tests.documents import PAGES, ROOT, Command, blocks, commands
from tests.pipelines.command_lines import check_settings, parsed, parsed_by
from tokenstore.errors import TokenstoreError

TRAININGS = {"mtm", "classify", "segment", "pixels", "tokenadapt"}
# Programs that are not ours, and why their lines are no more than read here.
OTHERS = {
    "pip": "installs into the environment; tests/house/test_wheels.py installs the wheels",
    "docker": "needs a Docker engine; tests/docker runs the images without one",
    "kubectl": "needs a cluster; tests/pipelines/test_cluster.py holds manifests to the schemas",
    "sbatch": "needs SLURM; tests/pipelines/test_slurm.py runs the scripts on one",
    "job=$(sbatch": "as sbatch",
    "cat": "writes a file of the page",
    "EOF": "ends that file",
    "cd": "the shell's own",
    "export": "the shell's own",
}
# Pages whose shell another test runs, other programs and all; their commands of ours are read here.
ELSEWHERE = {"docs/releasing.md": "tests/house/test_releasing.py runs its steps in a copy"}
OURS = ("tokenstore", "seit-train", "python", "make")
COMMANDS = [command for page in PAGES for block in blocks(page) for command in commands(block)]
REFUSALS = (click.UsageError, TokenstoreError, AssertionError)
HELP_PAGE = "docs/cli.md"


def check(command: Command) -> None:
    """The command, its options and what is given to them exist."""
    program, *rest = command.typed
    if program == "make":
        target = next(word for word in rest if "=" not in word)
        assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "python":
        assert rest[0] == "-m", f"{command.place}: say `python -m MODULE`"
        assert importlib.util.find_spec(rest[1]) is not None, f"{command.place}: {rest[1]}"
        main = getattr(importlib.import_module(rest[1]), "main", None)
        if isinstance(main, click.Command):
            parsed_by(main, rest[2:])
    else:
        values = parsed(command.typed)
        recipe = values.get("recipe")
        if command.words[1] in TRAININGS and not (recipe and recipe.endswith(".yaml")):
            check_settings(command.words[1], values)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists(page):
    for command in COMMANDS:
        if command.place.startswith(f"{page}:") and command.words[0] in OURS:
            try:
                check(command)
            except REFUSALS as error:
                pytest.fail(f"{command.place}: `{command.text}`: {error}")


def test_every_example_of_the_help_pages_exists():
    """`Example: LINE` at the end of a help page, which may go on in a second line."""
    examples = [
        Command(f"{HELP_PAGE}:{block.number}", tuple(example.split()))
        for block in blocks(HELP_PAGE)
        for example in re.findall(
            r"Example: ((?:tokenstore|seit-train) .*?)\Z", block.text, re.DOTALL
        )
    ]
    assert len(examples) > 25
    for command in examples:
        if command.words[1] != "COMMAND":
            check(command)


def test_a_line_of_shell_is_ours_or_says_why_it_is_only_read():
    """A new program in a page is added to `OTHERS` with the reason, or taken out of the page."""
    here = [command for command in COMMANDS if command.place.split(":")[0] not in ELSEWHERE]
    programs = {command.words[0]: command.place for command in here}
    unknown = {name: place for name, place in programs.items() if name not in (*OURS, *OTHERS)}
    assert unknown == {}
    assert set(OTHERS) <= set(programs), "OTHERS names a program that no page has any more"


def test_commands_lie_in_blocks_that_are_read():
    """A command in a block without a language would be held to nothing: say `sh`, or `text`."""
    typed = re.compile(r"^(?:\$ )?(?:tokenstore|seit-train|torchrun|python -m|make) ", re.MULTILINE)
    hidden = [
        f"{block.page}:{block.number}"
        for page in PAGES
        for block in blocks(page)
        if block.language not in ("sh", "text", "yaml") and page not in (HELP_PAGE, *ELSEWHERE)
        if typed.search(block.text)
    ]
    assert hidden == []
    texts = {page: (ROOT / page).read_text("utf-8") for page in PAGES if page != HELP_PAGE}
    indented = re.compile(r"^    (?:tokenstore|seit-train) \S", re.MULTILINE)
    outside = {
        page: re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for page, text in texts.items()
    }
    assert [page for page, text in outside.items() if indented.search(text)] == []


def test_a_wrong_option_a_wrong_recipe_and_a_wrong_setting_are_found():
    for text in (
        "tokenstore build photos --tokeniser pocket",
        "tokenstore convert photos.tokenstore",
        "seit-train mtm s -o r --recipe cpu_tinny",
        "seit-train mtm s -o r model.encoder.depht=3",
        "python -m pipelines.imagenet1k imagenet --gpu 8",
        "make demmo",
        "tokenstore bild photos",
    ):
        with pytest.raises(REFUSALS):
            check(Command("here:1", tuple(text.split())))

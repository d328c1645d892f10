"""How files look: an opening paragraph, telling names, small functions, nothing of one machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("tokenstore", "seit_train", "pipelines", "docs", "benchmarks")
MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_MODULE_LINES = 50, 6, 350
EMPTY_NAMES = {"utils", "util", "misc", "common", "helpers"}
# Written in pieces, so that this file does not find itself.
MACHINE_PATHS = re.compile("/(?:" + "|".join(["work", "farm", "root", "home", "tmp"]) + r")/\w")
REGISTRIES = re.compile(r"pypi\.[o]rg|pythonhosted\.[o]rg|registry\.npmjs")
MAX_TRACKED_BYTES = 1_000_000


def tracked():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of tracked files")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def modules(*folders):
    """(name, source, syntax tree) of the Python files below these folders."""
    for path in tracked():
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".py" and name.startswith(tuple(f"{folder}/" for folder in folders)):
            text = path.read_text(encoding="utf-8")
            yield name, text, ast.parse(text)


def functions(tree):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def is_click_command(function):
    dumped = " ".join(ast.dump(decorator) for decorator in function.decorator_list)
    return "'command'" in dumped or "'option'" in dumped


def test_every_python_file_opens_by_saying_what_it_is():
    silent = [
        name
        for name, text, tree in modules(*PRODUCT, "tests")
        if text.strip() and not ast.get_docstring(tree)
    ]
    assert silent == []


def test_no_file_is_named_for_nothing_in_particular():
    assert [str(path) for path in tracked() if path.stem in EMPTY_NAMES] == []


def test_functions_are_short():
    long = [
        f"{name}:{node.lineno} {node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for name, _, tree in modules(*PRODUCT)
        for node in functions(tree)
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_only_click_commands_of_the_command_folders_take_many_parameters():
    """Everywhere else ruff counts them (PLR0913); there it is switched off for the commands."""
    wide = [
        f"{name}:{node.lineno} {node.name}"
        for name, _, tree in modules(*PRODUCT)
        for node in functions(tree)
        if "/cli/" in name
        and not is_click_command(node)
        and len(node.args.args + node.args.kwonlyargs) > MAX_PARAMETERS
    ]
    assert wide == []


def test_modules_are_of_a_size_to_read_at_once():
    big = [
        f"{name} ({text.count(chr(10))} lines)"
        for name, text, _ in modules(*PRODUCT)
        if text.count("\n") > MAX_MODULE_LINES
    ]
    assert big == []


def test_no_tracked_file_names_a_path_of_one_machine_or_a_package_registry():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATHS.search(line) or REGISTRIES.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_no_tracked_file_is_large_but_the_shipped_weights():
    large = [path for path in tracked() if path.stat().st_size > MAX_TRACKED_BYTES]
    assert {path.name for path in large} <= {"pocket.safetensors", "token_adapt_pocket.safetensors"}
    assert all(path.stat().st_size <= 4_000_000 for path in large)

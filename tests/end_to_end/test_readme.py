"""The README's code blocks, run as they stand, one after the other, on a small drawn corpus.

In processes of their own, by the installed commands; the lines of all pages, in this process and
with little to do, are run by test_documents.py.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.demo.scenes import Corpus, write_corpus
from tests.documents import PAGES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- runs -->\n```(\w+)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(" epochs=1", id="with one epoch of each training"),
        pytest.param("", id="as it stands", marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_the_readme_runs(tmp_path, length):
    write_corpus(tmp_path / "photos", Corpus({"train": 8, "val": 2}, size=128))
    blocks = BLOCK.findall(TEXT)
    assert [language for language, _ in blocks] == ["sh", "python", "python"]
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    program = ""
    for language, code in blocks:
        if language == "python":
            program += code  # a later block goes on where an earlier one ended
            command = [sys.executable, "-c", program]
        else:
            training = re.compile(r"^seit-train (mtm|classify) .*$", re.MULTILINE)
            code = re.sub(r"^pip install .*\n", "", code)  # tests/house/test_wheels.py installs
            command = ["sh", "-e", "-c", training.sub(rf"\g<0>{length}", code)]
        ran = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{code}\n{ran.stdout}\n{ran.stderr}"


def test_every_link_of_the_documents_leads_somewhere():
    pages = [ROOT / page for page in PAGES]
    dead = [
        f"{page.name} -> {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert dead == []


def test_the_pages_build_into_a_site_without_a_warning(tmp_path):
    """Every page has its place in the menu, every link and every anchor leads somewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for page in ("index", "tutorial", "cli", "api", "docker/index"):
        assert (tmp_path / f"{page}.html").exists()
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    fetched = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", start)
    assert fetched == [], "a page fetches nothing from elsewhere"


def test_the_file_tree_names_every_module_and_nothing_else():
    """Each line of the tree is a folder or a file of it; plugins and tests may be summed up."""
    tree = TEXT.split("## Where things are")[1].split("```")[1]
    stack, listed = [], set()
    for line in tree.strip("\n").splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        stack = [*stack[: indent // 2], name.rstrip("/")]
        assert "/".join(stack) not in listed, f"the tree names {'/'.join(stack)} twice"
        listed.add("/".join(stack))
        assert (ROOT / "/".join(stack)).exists(), f"the tree names {'/'.join(stack)}"
    for package in ("tokenstore", "seit_train"):
        source = ROOT / package / "src" / package
        modules = {f"{package}/src/{package}/{path.name}" for path in source.glob("*.py")}
        folders = {f"{package}/src/{package}/{p.parent.name}" for p in source.glob("*/__init__.py")}
        missing = (modules | folders) - listed - {f"{package}/src/{package}/__init__.py"}
        assert missing == set()

"""Numbers that pages take from benchmarks/results/ are those that stand there."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULT = re.compile(r"\]\((?:\.\./)?(benchmarks/results/[\w-]+\.md)\)")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def numbers(text):
    return [found[0].rstrip(",") for found in NUMBER.finditer(text)]


def value(number):
    return float(number.replace(",", ""))


def unit(number):
    """What the last digit counts that a number was rounded to: `165,000 -> 1000, 0.84 -> 0.01`."""
    if "." in number:
        return 10.0 ** -len(number.partition(".")[2])
    digits = number.replace(",", "")
    return 10.0 ** (len(digits) - len(digits.rstrip("0")))


def tables(page):
    """Each table whose paragraph before it names a file of results: the file, and its cells."""
    parts = re.split(r"\n\n+", (ROOT / page).read_text(encoding="utf-8"))
    for before, part in pairwise(parts):
        named = RESULT.search(before)
        if named and part.startswith("|"):
            rows = [line.strip("|").split("|")[1:] for line in part.splitlines()[2:]]
            yield named[1], [cell for row in rows for cell in row]


PAGES = {"README.md": 1, "docs/measured.md": 3}


@pytest.mark.parametrize("page", PAGES)
def test_every_number_of_such_a_table_is_one_of_the_results_rounded(page):
    found = list(tables(page))
    assert len(found) == PAGES[page]
    for results, cells in found:
        there = [value(number) for number in numbers((ROOT / results).read_text("utf-8"))]
        shown = [number for cell in cells for number in numbers(cell)]
        assert len(shown) > 10
        for number in shown:
            room = unit(number) * 0.501
            assert any(abs(value(number) - each) <= room for each in there), (results, number)

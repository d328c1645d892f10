"""The code blocks of docs/interop.md, run as they stand on a small store."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy_store import ToyStore, write_toy_store

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
BLOCKS = re.findall(r"<!-- runs -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=["webdataset", "torch"])
def test_the_page_runs(tmp_path, code):
    write_toy_store(tmp_path / "photos.tokenstore", ToyStore())
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr

"""A release: one version everywhere, the same bytes from the same commit, steps that work."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.version import Version

import seit_train
import tokenstore
from seit_train.cli.main import main as seit_train_command
from tokenstore.build.plan import locked_versions
from tokenstore.cli.main import main as tokenstore_command

ROOT = Path(__file__).parents[2]
STALE = "the installed metadata is of another version: install again (make)"


def test_everything_that_tells_the_version_tells_the_same():
    version = tokenstore.__version__
    assert importlib.metadata.version("tokenstore") == version, STALE
    assert importlib.metadata.version("seit-train") == seit_train.__version__ == version, STALE
    assert locked_versions()["tokenstore"] == version
    for command, name in ((tokenstore_command, "tokenstore"), (seit_train_command, "seit-train")):
        printed = CliRunner().invoke(command, ["--version"]).output
        assert printed == f"{name}, version {version}\n"


def test_the_version_stands_in_one_place():
    for package in ("tokenstore", "seit_train"):
        project = tomllib.loads((ROOT / package / "pyproject.toml").read_text())
        assert "version" not in project["project"]
        place = ROOT / package / project["tool"]["hatch"]["version"]["path"]
        assert place.resolve() == ROOT / "tokenstore" / "src" / "tokenstore" / "__init__.py"


def test_seit_train_takes_tokenstore_of_its_own_minor_version():
    project = tomllib.loads((ROOT / "seit_train" / "pyproject.toml").read_text())["project"]
    requirements = [Requirement(line) for line in project["dependencies"]]
    (ours,) = [each for each in requirements if each.name == "tokenstore"]
    major, minor, patch = Version(tokenstore.__version__).release
    assert ours.extras == {"build"}
    for allowed in (f"{major}.{minor}.0", f"{major}.{minor}.{patch + 7}"):
        assert allowed in ours.specifier
    for refused in (f"{major}.{minor + 1}.0", f"{major + 1}.0.0"):
        assert refused not in ours.specifier


def test_the_changelog_begins_with_what_is_not_released():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", each) for each in sections[1:])
    parts = re.findall(r"^### (.*)$", text.split("\n## ")[1], re.MULTILINE)
    assert len(parts) == len(set(parts)), "a heading twice in one section"
    assert set(parts) <= {"Added", "Changed", "Fixed", "Removed", "Security", "Format"}


# ---------------------------------------------------------------------------- in a copy


def git(*words, cwd):
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *words], cwd=cwd, check=True, capture_output=True)


def clone(folder):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout: what is committed is what is released")
    git("clone", "--quiet", str(ROOT), str(folder), cwd=ROOT)
    return folder


def make_dist(folder, umask=0o022, **environment):
    """`make dist` with the environment of this test; file name -> bytes."""
    words = ["make", "dist", f"BIN={Path(sys.executable).parent}", "INSTALLED="]
    made = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | environment,
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return {path.name: path.read_bytes() for path in sorted((folder / "dist").iterdir())}


@pytest.mark.slow
def test_dist_has_the_same_bytes_wherever_whenever_and_by_whomever_it_is_made(tmp_path):
    one, two = clone(tmp_path / "one"), clone(tmp_path / "another" / "place")
    for path in two.rglob("*.py"):
        os.utime(path, (10**9, 10**9))
        path.chmod(0o600)
    (two / "tokenstore/src/tokenstore/left_over.py").write_text("lying about\n")
    (tmp_path / "another" / ".gitignore").write_text("*.safetensors\n")
    first = make_dist(one)
    second = make_dist(two, umask=0o077, TZ="Asia/Kolkata", LC_ALL="C", PYTHONHASHSEED="7")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    version = tokenstore.__version__
    assert sorted(first) == [
        "SHA256SUMS",
        f"seit_train-{version}-py3-none-any.whl",
        f"seit_train-{version}.tar.gz",
        f"tokenstore-{version}-py3-none-any.whl",
        f"tokenstore-{version}.tar.gz",
    ]
    # Each source distribution makes its wheel by itself, where the other one is not.
    builder = one / "docker" / "wheels.lock"
    for package in ("tokenstore", "seit_train"):
        alone = tmp_path / "alone" / package
        with tarfile.open(one / "dist" / f"{package}-{version}.tar.gz") as archive:
            archive.extractall(alone, filter="data")
        words = ["build", "--quiet", "--wheel", "--require-hashes", "--build-constraints", builder]
        words += ["--out-dir", alone, "--python", sys.executable, alone / f"{package}-{version}"]
        uv = Path(sys.executable).with_name("uv")
        time = subprocess.check_output(["git", "log", "-1", "--format=%ct"], cwd=one, text=True)
        epoch = {"SOURCE_DATE_EPOCH": time.strip()}
        subprocess.run([uv, *words], env=os.environ | epoch, check=True)
        (wheel,) = alone.glob("*.whl")
        assert wheel.read_bytes() == first[wheel.name]


def blocks():
    """The shell of docs/releasing.md that changes files, a text each."""
    text = (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_in(copy, command):
    """Run a shell command on the packages of the copy; what it prints."""
    sources = os.pathsep.join(str(copy / name / "src") for name in ("tokenstore", "seit_train"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": sources, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


TESTS_OF_THE_FORMAT = (
    "python -m pytest -q -p no:cacheprovider "
    "tests/golden tests/tokenstore/test_manifest.py tests/hostile/test_stores.py"
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_steps_of_a_release_work_in_a_copy(tmp_path):
    copy = clone(tmp_path / "copy")
    setting, declaring = blocks()
    assert "version=" in setting and "FORMAT" in declaring
    run_in(copy, re.sub("^version=.*", "version=7.8.9", setting))
    run_in(copy, declaring)
    git("add", "--all", cwd=copy)
    git("commit", "--quiet", "--message", "Release", cwd=copy)

    log = (copy / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"\n## Unreleased\n\n## 7\.8\.9 - \d{4}-\d\d-\d\d\n\n\w", log)
    assert log.count("Store format 1 is declared") == 1
    assert "tokenstore[build]>=7.8,<7.9" in (copy / "seit_train/pyproject.toml").read_text()
    assert "seit-train:7.8.9 " in (copy / "docker/README.md").read_text()
    page = (copy / "docs/format.md").read_text(encoding="utf-8")
    assert page.startswith("# The store format, number 1\n")
    assert "ormat 0" not in page and "format0" not in page

    assert "passed" in run_in(copy, TESTS_OF_THE_FORMAT)
    told = run_in(copy, "tokenstore info tests/golden/format1")
    assert "format      1, version 0" in told
    refused = run_in(copy, f"tokenstore info {ROOT}/tests/golden/format0 2>&1 || true")
    assert "has format 0, this version of tokenstore reads format 1. Build the store" in refused
    frozen = run_in(copy, "python -m tests.golden.golden_store 2>&1 || true")
    assert "is frozen" in frozen
    assert {name for name in make_dist(copy) if "7.8.9" not in name} == {"SHA256SUMS"}
    for store in ("format1", "format1-rans", "format1-context"):
        assert_only_the_number_differs(copy / "tests" / "golden" / store)


def assert_only_the_number_differs(new):
    """Format 1 is the last format 0 with another number, in manifests and indexes."""
    old = ROOT / "tests" / "golden" / new.name.replace("format1", "format0")
    names = sorted(path.relative_to(old) for path in old.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
    for name in names:
        before, after = (old / name).read_bytes(), (new / name).read_bytes()
        if name.suffix == ".index":
            places = np.flatnonzero(np.frombuffer(before, "u1") != np.frombuffer(after, "u1"))
            assert set(places) <= {8, *range(40, 48)}, "the number, and the hash of the header"
        elif name.suffix != ".json":
            assert after == before, name

"""What people install: both wheels hold what they must, and reading installs without torch."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Both distributions as wheels: name -> set of the files inside."""
    out = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(out)]
    subprocess.run([*command, str(ROOT / "tokenstore"), str(ROOT / "seit_train")], check=True)
    return {
        path.name.split("-")[0]: set(zipfile.ZipFile(path).namelist()) for path in out.iterdir()
    }


def source_files(package):
    """All files of a package's source folder that are not made by Python itself."""
    source = ROOT / package / "src"
    files = (
        path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {path.relative_to(source).as_posix() for path in files}


@pytest.mark.parametrize("package", ["tokenstore", "seit_train"])
def test_a_wheel_holds_every_file_of_its_package_and_its_licence(wheels, package):
    inside = wheels[package]
    assert source_files(package) <= inside
    assert f"{package}/py.typed" in inside
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_the_weights_travel_with_the_terms_of_their_photos(wheels):
    assert "tokenstore/tokenizers/pocket.safetensors" in wheels["tokenstore"]
    assert "seit_train/augment/token_adapt_pocket.safetensors" in wheels["seit_train"]
    for inside in wheels.values():
        assert any(name.endswith("licenses/NOTICE") for name in inside)


def test_the_pages_of_the_reports_are_in_the_wheels(wheels):
    shared = ("page.html.jinja", "pieces.html.jinja", "page.css")
    assert {f"tokenstore/report/{name}" for name in shared} <= wheels["tokenstore"]
    own = ("runs.html.jinja", "runs.css", "sections/predictions.py")
    assert {f"seit_train/report/{name}" for name in own} <= wheels["seit_train"]


def test_the_recipes_are_in_the_wheel(wheels):
    assert "seit_train/recipes/cpu_tiny.yaml" in wheels["seit_train"]


@pytest.mark.timeout(600)
def test_reading_installs_alone_in_a_fresh_environment_without_torch(tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", str(ROOT / "tokenstore")]
    subprocess.run(install, check=True)
    subprocess.run([tmp_path / "env" / "bin" / "tokenstore", "--version"], check=True)
    code = "import importlib.util as u, tokenstore; assert u.find_spec('torch') is None"
    subprocess.run([python, "-c", code], check=True)

"""Installs the wheels of dist/ into clean environments and uses them: what `make dist-test` runs.

    python -m tests.clean_install --python 3.11 --versions lowest

Twice: `tokenstore` alone for a machine that reads, then both wheels for one that builds and trains
(6 GB, removed again). `lowest` takes the lowest version of every package that the wheels ask for
and the newest of what these need in turn; `newest` takes the newest of all. Then `docker/smoke.sh`
builds, verifies and trains. It runs no other tests: those need the sources.
"""

import email
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import click
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
# What is installed for each target of docker/smoke.sh: wheel -> extra.
TARGETS = {"reader": {"tokenstore": ""}, "train": {"tokenstore": "build", "seit_train": ""}}


def wheel_of(name: str, folder: Path) -> Path:
    (wheel,) = folder.glob(f"{name}-*.whl")
    return wheel


def asked_for(wheel: Path, extra: str) -> list[Requirement]:
    """What a wheel's metadata requires, less our own distributions."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    wanted = [Requirement(line) for line in lines]
    holds = [each for each in wanted if not each.marker or each.marker.evaluate({"extra": extra})]
    return [each for each in holds if each.name != "tokenstore"]


def install(target: str, dist: Path, python: str, versions: str, environment: Path) -> list[str]:
    """Make the environment; the requirements that were direct, with the versions they got."""
    wheels = {wheel_of(name, dist): extra for name, extra in TARGETS[target].items()}
    direct = [each for wheel, extra in wheels.items() for each in asked_for(wheel, extra)]
    names = sorted({each.name for each in direct})
    uv = Path(sys.executable).with_name("uv")
    listed = environment.with_suffix(".txt")
    lines = [str(Requirement(f"{each.name}{each.specifier}")) for each in direct]
    listed.write_text("\n".join(lines))
    subprocess.run([uv, "venv", "--quiet", "--python", python, environment], check=True)
    words = [uv, "pip", "install", "--quiet", "--python", environment, "--requirements", listed]
    words += ["--resolution", RESOLUTIONS[versions], *wheels]
    subprocess.run(words, check=True)
    subprocess.run([uv, "pip", "check", "--python", environment], check=True)
    frozen = [uv, "pip", "freeze", "--python", environment]
    found = subprocess.run(frozen, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line for line in found if line.partition("==")[0] in names]


def use(target: str, environment: Path) -> None:
    """Run the smoke test with nothing of this process' own Python in the way."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean["PATH"] = f"{environment / 'bin'}{os.pathsep}{clean['PATH']}"
    clean["PYTHONWARNINGS"] = "default"
    subprocess.run(["sh", ROOT / "docker" / "smoke.sh", target], check=True, env=clean)


@click.command()
@click.option("--python", required=True, metavar="X.Y", help="Version of Python, or a program.")
@click.option("--versions", required=True, type=click.Choice(list(RESOLUTIONS)))
@click.option("--dist", type=click.Path(path_type=Path), default=ROOT / "dist", show_default=True)
@click.option("--target", "targets", multiple=True, type=click.Choice(list(TARGETS)))
def main(python: str, versions: str, dist: Path, targets: tuple[str, ...]) -> None:
    """Install the wheels of DIST into clean environments and use them.

    Example: python -m tests.clean_install --python 3.13 --versions newest
    """
    for target in targets or TARGETS:
        folder = Path(tempfile.mkdtemp(prefix="clean-install"))
        try:
            got = install(target, dist, python, versions, folder / "environment")
            click.echo(f"{target}, Python {python}, {versions}: {' '.join(got)}")
            use(target, folder / "environment")
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()

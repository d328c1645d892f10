"""Starting, resuming and refusing runs, and what a run folder holds."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from seit_train.launch import TrainRequest, train
from seit_train.run import Run
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import Mismatch, TrainingError, UnknownName, UsageError


@pytest.fixture
def other_store(tmp_path):
    toy = ToyStore({"train": 48, "val": 13}, codes=12, seed=1)
    return write_toy_store(tmp_path / "other.tokenstore", toy)


def test_a_run_folder_holds_what_the_design_says(request_run, store):
    run = train(request_run("mtm")).run
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "config.json",
        "store.json",
        "vocabulary.safetensors",
        "environment.json",
        "footprint.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
    }
    config = json.loads((run.folder / "config.json").read_text())
    assert config["task"] == "mtm"
    assert config["optim"]["clip_norm"] == 1.0
    assert config["optim"]["schedule"] == "cosine"  # defaults are written out
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["precision"] in ("fp32", "bf16")
    opened = Run.open(run.folder)
    assert opened.config == run.config
    assert opened.store.fingerprint == store.fingerprint
    assert opened.store.vocabulary_fingerprint() == store.vocabulary_fingerprint
    assert torch.equal(opened.store.facts().codebook, run.store.facts().codebook)


@pytest.mark.parametrize("task", ["mtm", "classify"])
def test_a_store_without_a_codebook_trains_with_a_learned_embedding(tmp_path, caplog, task):
    toy = ToyStore({"train": 32, "val": 8}, side=16, with_codebook=False)
    store = write_toy_store(tmp_path / "s", toy)
    small = ["model.depth=1"] if task == "classify" else ["model.encoder.depth=1"]
    request = TrainRequest(
        task, store.url, tmp_path / "run", "cpu_tiny", ["steps=1", "batch_size=8", *small]
    )
    with caplog.at_level("INFO"):
        outcome = train(request)
    assert outcome.steps == 1
    assert "no codebook, so the id embedding is learnt from a random start" in caplog.text


def test_an_existing_run_is_refused_without_resume_and_stays_as_it_is(request_run):
    request = request_run("toy", "steps=1")
    train(request)
    before = sorted((p, p.stat().st_mtime_ns) for p in request.folder.rglob("*"))
    with pytest.raises(UsageError, match="holds a run already. Continue it with --resume"):
        train(request)
    assert before == sorted((p, p.stat().st_mtime_ns) for p in request.folder.rglob("*"))


def test_a_folder_with_other_things_is_refused(request_run):
    request = request_run("toy")
    request.folder.mkdir()
    (request.folder / "thesis.tex").write_text("precious")
    for resume in (False, True):
        with pytest.raises(UsageError, match="holds no run"):
            train(replace(request, resume=resume))
    assert [path.name for path in request.folder.iterdir()] == ["thesis.tex"]


def test_resume_begins_a_run_that_is_not_there_yet(request_run):
    assert train(replace(request_run("toy"), resume=True)).trained


def test_resuming_a_finished_run_says_so_and_changes_no_weight(request_run):
    run = train(request_run("toy", "steps=2")).run
    before = load_file(run.last / "model.safetensors")
    outcome = train(request_run("toy", "steps=2", resume=True))
    assert not outcome.trained
    assert outcome.steps == 2
    after = load_file(run.last / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_resuming_with_other_settings_names_them(request_run):
    train(request_run("toy", "steps=2"))
    with pytest.raises(UsageError, match=r"lr=0.05 \(now asked: 0.5\)"):
        train(request_run("toy", "steps=2", "lr=0.5", resume=True))


def test_resuming_without_a_recipe_lays_overrides_over_the_runs_own_settings(request_run, caplog):
    run = train(request_run("toy", "steps=2", "lr=0.2")).run
    again = replace(request_run("toy", "lr=0.2", "loop.log_every=1", resume=True), recipe=None)
    with caplog.at_level("INFO", logger="seit_train"):
        resumed = train(again).run
    assert "resumed with other settings of the loop: loop.log_every=4 (now asked: 1)" in caplog.text
    assert Run.open(run.folder).config == resumed.config
    assert resumed.config.loop.log_every == 1 and resumed.config.steps == 2
    with pytest.raises(UsageError, match=r"lr=0.2 \(now asked: 0.3\)"):
        train(replace(again, overrides=("lr=0.3",)))


def test_an_average_cannot_begin_in_the_middle_of_a_run(request_run):
    train(request_run("toy", "steps=2"))
    with pytest.raises(UsageError, match=r"loop.ema=None \(now asked: 0.9\)"):
        train(request_run("toy", "steps=2", "loop.ema=0.9", resume=True))


def test_resuming_on_another_store_is_refused(request_run, other_store):
    train(request_run("toy", "steps=2"))
    with pytest.raises(Mismatch, match="Resume with the store of the run"):
        train(replace(request_run("toy", "steps=2", resume=True), store=other_store.url))


def test_resuming_as_another_task_is_refused(request_run):
    train(request_run("toy", "steps=2"))
    with pytest.raises(UsageError, match="is a run of task toy, not mtm"):
        train(request_run("mtm", resume=True))


def test_a_refused_request_leaves_no_folder(request_run):
    for wrong in (
        request_run("toy", "no_such_key=1"),
        request_run("toy", "batch_size=1000"),
        request_run("mtm", "augment=[{random_resized_crop: {size: 7}}]"),
        request_run("nothing"),
        replace(request_run("toy"), recipe="no_such_recipe"),
        replace(request_run("toy"), init="nowhere"),
    ):
        with pytest.raises((UsageError, TrainingError)):
            train(wrong)
        assert not wrong.folder.exists()


def test_a_key_that_does_not_exist_shows_the_nearest(request_run):
    with pytest.raises(UnknownName, match=r"model\.encoder\.widht.*Did you mean model\.encoder"):
        train(request_run("mtm", "model.encoder.widht=64"))


def test_a_batch_larger_than_the_split_says_how_to_lower_it(request_run):
    with pytest.raises(UsageError, match="48 images.*batch_size=N"):
        train(request_run("toy", "batch_size=64"))


def test_a_batch_that_accumulation_does_not_divide_is_refused(request_run):
    with pytest.raises(UsageError, match="multiple of 3"):
        train(request_run("toy", "loop.accumulate=3"))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("mtm", ("method=lut", "lut.context.hidden=16")),
        ("mtm", ("method=mage", "mage.contrast=0.1", "mage.contrastive.hidden=16")),
        ("classify", ("probe=linear",)),
    ],
)
def test_parts_of_one_image_are_refused_where_images_are_compared(request_run, task, words):
    alone = request_run(task, *words, "loop.accumulate=16")
    with pytest.raises(TrainingError, match=r"leaves 1 in each: it takes 2. Lower loop.accumulate"):
        train(alone)
    assert not alone.folder.exists()
    assert train(request_run(task, *words, "steps=1", "loop.accumulate=8")).trained


def test_a_store_without_train_is_refused(request_run, tmp_path):
    store = write_toy_store(tmp_path / "s", ToyStore({"val": 20}))
    with pytest.raises(UsageError, match="no split 'train', only: val"):
        train(replace(request_run("toy"), store=store.url))


def test_classification_starts_from_the_encoder_of_a_masked_run(request_run, caplog):
    masked = train(request_run("mtm", folder="a")).run
    still = ("lr=1e-12", "optim.weight_decay=0")
    with caplog.at_level("INFO", logger="seit_train"):
        started = train(request_run("classify", *still, folder="b", init=str(masked.folder))).run
    assert "tensors loaded" in caplog.text
    encoder = load_file(masked.result() / "model.safetensors")
    classifier = load_file(started.last / "model.safetensors")
    name = "blocks.1.attn.qkv.weight"
    torch.testing.assert_close(classifier[name], encoder[f"encoder.{name}"])


def test_init_takes_a_run_a_checkpoint_or_a_file(request_run):
    run = train(request_run("toy", "steps=3")).run
    for place in (run.folder, run.last, run.last / "model.safetensors"):
        request = request_run("toy", "steps=1", folder=f"from-{place.name}", init=str(place))
        begun = train(request)
        assert begun.trained
        train(replace(request, resume=True, init=None))
        environment = json.loads((begun.run.folder / "environment.json").read_text())
        assert environment["init"] == str(place), "also after a resume that does not repeat it"


def test_init_from_another_vocabulary_is_refused_with_a_way_on(request_run, other_store):
    train(request_run("toy", "steps=3"))
    request = request_run("toy", folder="b", init=str(request_run("toy").folder))
    with pytest.raises(Mismatch, match="another code.*--vocabulary.*leave out --init"):
        train(replace(request, store=other_store.url))
    assert not request.folder.exists()


def test_init_takes_a_vocabulary_that_was_extended(request_run, other_store, store):
    """16 codes begin with the same 12: a model of the 12 may start one of the 16."""
    train(replace(request_run("mtm"), store=other_store.url))
    outcome = train(request_run("mtm", folder="b", init=str(request_run("mtm").folder)))
    assert outcome.trained
    assert len(store.vocabulary) > len(other_store.vocabulary)


def test_init_from_a_file_of_unknown_origin_is_refused(request_run, tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(TrainingError, match="does not say for which vocabulary"):
        train(request_run("toy", init=str(tmp_path / "foreign.safetensors")))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(TrainingError, match="holds no run"):
        Run.open(tmp_path)


def test_a_damaged_run_is_named(request_run):
    run = train(request_run("toy", "steps=1")).run
    (run.folder / "store.json").write_text("{")
    with pytest.raises(TrainingError, match="is damaged"):
        Run.open(run.folder)


def test_a_run_without_checkpoint_says_how_to_get_one(request_run):
    run = train(request_run("toy", "steps=1")).run
    for checkpoint in (run.best, run.last):
        checkpoint.rename(checkpoint.with_name(f"gone-{checkpoint.name}"))
    with pytest.raises(TrainingError, match="continue it with --resume"):
        Run.open(run.folder).result()


def test_a_run_reads_its_store_through_the_cache_of_its_recipe(request_run, store, tmp_path):
    plain = train(request_run("toy", folder="plain")).run
    cached = train(request_run("toy", f"data.cache={tmp_path / 'cache'}", folder="cached")).run
    hashes = {path.name.split(".")[0] for path in (tmp_path / "cache").glob("*.file")}
    assert store["train"].entry.shards[0].shard.sha256 in hashes
    weights = [load_file(run.last / "model.safetensors") for run in (plain, cached)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_cache_smaller_than_a_shard_stops_a_run_before_it_begins(request_run, tmp_path):
    request = request_run("toy", f"data.cache={tmp_path / 'cache'}", "data.cache_bytes=10")
    with pytest.raises(UsageError, match="cache_bytes is 10"):
        train(request)
    assert not request.folder.exists()


def test_a_run_trains_on_a_mixture_and_goes_on_with_it(request_run, tmp_path):
    other = write_toy_store(tmp_path / "other", ToyStore({"train": 16}, seed=1))
    mix = f"data.mix=[{{store: '{other.url}', weight: 2}}]"
    whole = train(request_run("toy", mix, folder="whole")).run
    seen = json.loads((whole.last / "state.json").read_text())["loader"]
    assert "Mixture(sizes=[48.0, 16.0], weights=[1.0, 2.0]" in seen["order"]
    with pytest.raises(UsageError, match="begun with other settings: data.mix="):
        train(request_run("toy", mix.replace("2}", "3}"), folder="whole", resume=True))
    assert not train(request_run("toy", mix, folder="whole", resume=True)).trained

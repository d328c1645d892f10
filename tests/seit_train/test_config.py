"""Recipes and overrides: complete, typed, and wrong ones stop with the cure."""

import pytest

from seit_train.config import OptimConfig, RunConfig, make_config
from seit_train.recipe import parse_recipe, read_recipe, recipe_names, recipe_text
from tokenstore.errors import UnknownName, UsageError
from tokenstore.registry import find

SECTION = {"task": "x", "epochs": 3, "batch_size": 8, "lr": 1e-3, "optim": {"betas": [0.9, 0.95]}}


def made(*overrides, section=SECTION):
    return make_config(RunConfig, section, overrides, origin="test")


def test_overrides_reach_into_groups_and_leave_the_rest():
    config = made("optim.weight_decay=0.1", "seed=7")
    assert config.optim == OptimConfig(betas=(0.9, 0.95), weight_decay=0.1)
    assert config.seed == 7
    assert SECTION["optim"] == {"betas": [0.9, 0.95]}


def test_the_later_override_wins():
    assert made("lr=1", "lr=2").lr == 2


@pytest.mark.parametrize(
    ("override", "value"), [("lr=1e-3", 1e-3), ("lr=1E+2", 100.0), ("lr=3", 3.0), ("lr=.5", 0.5)]
)
def test_numbers_are_numbers_however_they_are_written(override, value):
    assert made(override).lr == value


def test_lists_and_null_are_yaml():
    config = made("optim.betas=[0.8, 0.9]", "optim.clip_norm=null")
    assert config.optim.betas == (0.8, 0.9)
    assert config.optim.clip_norm is None


def test_asking_for_steps_takes_back_epochs_and_the_other_way_round():
    assert (made("steps=5").steps, made("steps=5").epochs) == (5, None)
    by_steps = {**SECTION, "steps": 9}
    del by_steps["epochs"]
    assert made("epochs=2", section=by_steps).steps is None


@pytest.mark.parametrize("both", [("steps=5", "epochs=2"), ("epochs=null",)])
def test_a_run_has_exactly_one_length(both):
    if len(both) == 2:
        assert made(*both).epochs == 2  # the later one
        section = {**SECTION, "steps": 5}
        with pytest.raises(UsageError, match="exactly one of epochs and steps"):
            made(section=section)
    else:
        with pytest.raises(UsageError, match="exactly one of epochs and steps"):
            made(*both)


def test_an_unknown_key_shows_the_nearest():
    with pytest.raises(UnknownName, match=r"optim\.weigth_decay.*Did you mean optim\.weight_decay"):
        made("optim.weigth_decay=1")
    with pytest.raises(UnknownName, match=r"bach_size.*Did you mean batch_size"):
        made("bach_size=1")
    with pytest.raises(UnknownName, match="It stands in what was given as KEY=VALUE"):
        made("bach_size=1")
    with pytest.raises(UnknownName, match="It stands in what was given as KEY=VALUE"):
        made("optim={bettas: 1}")
    with pytest.raises(UnknownName, match="It stands in recipe '"):
        made(section={**SECTION, "bach_size": 1})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lr=fast", r"lr = 'fast'"),
        ("lr=-1", r"lr = -1: .*greater than 0"),
        ("optim.schedule=step", r"optim\.schedule = 'step'.*'cosine', 'constant' or 'poly'"),
        ("optim=3", r"optim = 3"),
        ("lr", r"'lr' is no key=value override"),
        ("lr=[", r"the value of 'lr=\['"),
        ("batch_size=2.5", r"batch_size = 2.5"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(override, words):
    with pytest.raises(UsageError, match=words) as caught:
        made(override)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    with pytest.raises(UsageError, match="lacks the key lr. Add lr=VALUE"):
        make_config(RunConfig, {"task": "x", "epochs": 1, "batch_size": 2}, origin="test")


def test_a_config_goes_through_json_unchanged():
    config = made("optim.clip_norm=2")
    again = make_config(RunConfig, config.model_dump(mode="json"), origin="config.json")
    assert again == config


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UnknownName, match="cpu_tiny, gpu_small, .*seit_vitb_in1k"):
        recipe_text("cpu-tiny")


def test_a_recipe_without_the_task_lists_its_tasks():
    with pytest.raises(UnknownName, match="'mtm'.*Known: classify"):
        read_recipe("seit_vitb_in1k", "mtm")


@pytest.mark.parametrize("text", ["[1, 2]", "mtm: 3", "a: [", ""])
def test_a_file_that_is_no_recipe_is_refused(text, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match="recipe"):
        read_recipe(str(file), "mtm")


def test_a_recipe_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        recipe_text(str(file))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_for_each_of_its_tasks(name):
    for task in parse_recipe(recipe_text(name), name):
        kind = find("seit_train.tasks", task).Config
        config = make_config(kind, read_recipe(name, task), origin=name)
        assert config.task == task


def test_the_published_rates_follow_from_the_published_rules():
    seit = read_recipe("seit_vitb_in1k", "classify")
    assert seit["lr"] == pytest.approx(7.5e-4 * seit["batch_size"] / 512)
    mtm = read_recipe("seitpp_vitb_mtm", "mtm")
    assert mtm["lr"] == pytest.approx(1.5e-4 * mtm["batch_size"] / 256)
    tuned = read_recipe("seitpp_vitb_mtm", "classify")
    assert tuned["lr"] == pytest.approx(1e-3 * tuned["batch_size"] ** 0.5 / 8)


def test_classes_cannot_be_balanced_by_shards():
    with pytest.raises(UsageError, match="cannot be balanced a few shards at a time"):
        made("data.sampling=class-balanced", "data.shuffle=shards")


def test_on_and_off_are_words_and_true_is_true():
    assert made("loop.compile=on").loop.compile == "on"
    assert made("loop.compile=off").loop.compile == "off"
    text = "mtm: {a: true, b: False, c: on, d: no, e: 1e-3, f: null}"
    values = {"a": True, "b": False, "c": "on", "d": "no", "e": 1e-3, "f": None}
    assert parse_recipe(text, "mine")["mtm"] == values

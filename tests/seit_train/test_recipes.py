"""Every recipe that ships: its header, its settings, its model, and each key changed."""

import json
import shlex
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from seit_train.augment.token_adapt import AdapterOrigin, MadeBy
from seit_train.checkpoint import MODEL
from seit_train.config import make_config
from seit_train.models.token_adapt import TokenAdapt, TokenAdaptConfig
from seit_train.recipe import parse_recipe, read_recipe, recipe_names, recipe_text
from seit_train.recipe_card import read_card, recipe_cards
from seit_train.tasks.base import MaskFacts
from tests.toy_facts import make_facts
from tokenstore.errors import TrainingError, UsageError
from tokenstore.registry import find
from tokenstore.tokenizers import load_tokenizer

SECTIONS = [
    (name, task) for name in recipe_names() for task in parse_recipe(recipe_text(name), name)
]
FACTS = make_facts(side=32, codes=391, width=32, classes=10)
COARSE = make_facts(side=16, codes=1024, width=256, classes=10)
PAIRS = make_facts(side=32, codes=40, width=6, classes=8)
# Millions of parameters of the model that is kept in the end, as published for ViTs of 1,000
# classes; with 10 classes and stems for tokens they are a little smaller.
PUBLISHED = {
    "seit_vitb_in1k": 86,
    "seit_vits_in1k": 22,
    "seit_resnet50_in1k": 25,
    "seitpp_vitb_mtm": 86,
}


def of_pocket(facts):
    pocket = load_tokenizer("pocket")
    made_by = {"name": "pocket", "config": pocket.describe(), "weights": pocket.weights_sha256}
    return replace(facts, codes=replace(facts.codes, tokenizer=made_by))


def facts_of(name, task):
    if task == "tokenadapt":  # cpu_tiny tunes pocket
        return replace(of_pocket(PAIRS), grid=(64, 32))
    if task == "segment" and name == "cpu_tiny":  # with the TokenAdapt that comes for pocket
        masks = MaskFacts((128, 128), ("sky", "road", "tree"), None)
        return replace(of_pocket(PAIRS), grid=(16, 16), masks=masks)
    if task == "segment":
        side = 64 if name.startswith("ade20k") else 32
        facts = make_facts(side=side, codes=391, width=32, classes=0)
        masks = MaskFacts((8 * side, 8 * side), ("sky", "road", "tree"), None)
        return replace(facts, masks=masks)
    return COARSE if name == "mage_vitb_in1k" else FACTS


@pytest.fixture
def adapted(tmp_path, monkeypatch):
    """A TokenAdapt where the recipes look for it."""
    config = TokenAdaptConfig()
    torch.manual_seed(0)
    model = TokenAdapt(config, FACTS.grid, 32, FACTS.codes.ids)
    place = tmp_path / "runs" / "adapt"
    place.mkdir(parents=True)
    made_by = MadeBy(name=FACTS.codes.tokenizer["name"], weights=None)
    origin = AdapterOrigin(sizes=config, grid=FACTS.grid, tokenizer=made_by)
    save_file(model.state_dict(), place / MODEL, origin.as_metadata())
    monkeypatch.chdir(tmp_path)


def config_of(name, task, *overrides):
    kind = find("seit_train.tasks", task)
    return make_config(kind.Config, read_recipe(name, task), overrides, origin=name)


def make_task(name, task, facts, *overrides):
    return find("seit_train.tasks", task)(config_of(name, task, *overrides), facts)


def leaves(settings, prefix=""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize(("name", "task"), SECTIONS)
def test_a_recipe_makes_its_task_and_its_model(adapted, name, task):
    made = make_task(name, task, facts_of(name, task))
    starts_from_codebook = name in ("cpu_tiny", "gpu_small")
    with torch.device("cpu" if starts_from_codebook else "meta"):
        model = made.build_model()
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert size > 0.1
    if task == "classify" and name in PUBLISHED:
        assert size == pytest.approx(PUBLISHED[name], rel=0.1)


@pytest.mark.parametrize(("name", "task"), SECTIONS)
def test_every_key_of_a_recipe_can_be_given_again_on_the_command_line(name, task):
    plain = config_of(name, task)
    section = {k: v for k, v in read_recipe(name, task).items() if k != "task"}
    words = [f"{key}={json.dumps(value)}" for key, value in leaves(section)]
    assert config_of(name, task, *words) == plain


def test_an_override_is_in_the_configuration_that_a_run_keeps():
    config = config_of("seit_vitb_in1k", "classify", "model.depth=6", "optim.betas=[0.8, 0.9]")
    kept = config.model_dump(mode="json")
    assert kept["model"]["depth"] == 6 and kept["model"]["width"] == 768
    assert kept["optim"]["betas"] == [0.8, 0.9]


@pytest.mark.parametrize("name", recipe_names())
def test_a_header_has_every_field_and_its_commands_run_its_own_tasks(name):
    card = read_card(recipe_text(name), name)
    assert all((card.title, card.command, card.store, card.hardware, card.expected, card.source))
    ran = set()
    for line in card.command:
        words = shlex.split(line)
        rest = words[words.index("seit_train") + 1 :] if "torchrun" in words else words[1:]
        assert rest[0] in card.tasks
        assert rest[rest.index("--recipe") + 1] == name
        ran.add(rest[0])
    assert ran >= set(card.tasks) - {"tokenadapt"}


def test_all_recipes_of_the_papers_are_there():
    names = {card.name for card in recipe_cards()}
    columns = {"in1k", "in21k", "in21k_in1k", "pixels"}
    assert {f"seit_vitb_{column}" for column in columns} <= names
    assert {"seitpp_vitb_in1k", "seitpp_vitb_mtm", "seitpp_vits_in100", "cpu_tiny"} <= names
    assert {"lut_vitb_in1k", "mage_vitb_in1k", "seitpp_vitb_limited", "gpu_small"} <= names


def test_a_header_that_lacks_a_field_is_named():
    with pytest.raises(UsageError, match="lacks: command, store"):
        read_card("# Mine.\n#\n# hours     1\n\nmtm: {}\n", "mine")


def test_lines_that_belong_together_are_joined():
    text = (
        "# T.\n#\n# command   a b\n#             c\n#           d\n# store     s\n#           t\n"
    )
    text += "".join(f"# {field:<10}x\n" for field in ("hardware", "hours", "expected", "source"))
    card = read_card(text + "\nmtm: {}\n", "mine")
    assert card.command == ("a b c", "d")
    assert card.store == "s t"
    assert card.hours == "x"


PUBLISHED_TOKENS = [
    (name, task)
    for name, task in SECTIONS
    if task not in ("pixels", "tokenadapt", "segment")
    and name not in ("cpu_tiny", "gpu_small", "continual_tiny")
]


@pytest.mark.parametrize(("name", "task"), PUBLISHED_TOKENS)
def test_a_recipe_that_does_not_fit_the_grid_says_so_before_a_model_is_made(adapted, name, task):
    small = make_facts(side=14, codes=391, width=32, classes=10)
    with pytest.raises(TrainingError, match=r"does not fit a grid of 14x14"):
        make_task(name, task, small, *_without_adapt(name, task))


def _without_adapt(name, task):
    augment = read_recipe(name, task).get("augment", [])
    if not any("halves" in entry for entry in augment):
        return ()
    return ("augment=[{random_resized_crop: {size: 28}}]",)


@pytest.mark.parametrize("classes", [0, 1])
def test_classes_that_cannot_be_learnt_are_refused(classes):
    facts = make_facts(side=32, codes=391, width=32, classes=classes)
    with pytest.raises(TrainingError, match="labels|two classes"):
        make_task("seit_vitb_in1k", "classify", facts)
    with pytest.raises(TrainingError, match="labels|two classes"):
        make_task("seit_vitb_pixels", "pixels", facts)


@pytest.mark.parametrize(
    ("name", "task", "overrides"),
    [
        ("lut_vitb_in1k", "mtm", ("lut.base=simmim", "mask=null")),
        ("lut_vitb_in1k", "mtm", ("lut.base=null",)),
        ("mage_vitb_in1k", "mtm", ("mage.contrast=0.1",)),
        ("seit_resnet50_in1k", "classify", ("model.backbone=resnet18",)),
        ("seit_vitb_limited", "classify", ("data.fraction=0.4",)),
        ("seitpp_vitb_finegrained", "mtm", ("data.repeats=4",)),
    ],
)
def test_the_variants_of_the_headers_work(adapted, name, task, overrides):
    card = read_card(recipe_text(name), name)
    assert all(word in card.variants for word in overrides)
    made = make_task(name, task, facts_of(name, task), *overrides)
    with torch.device("meta"):
        made.build_model()


def test_iterations_are_kept_where_the_papers_keep_them():
    lengths = {
        (name, task): read_recipe(name, task).get("steps")
        for name in ("seitpp_vits_in100", "seitpp_vitb_limited")
        for task in ("mtm", "classify")
    }
    assert set(lengths.values()) == {400 * (1281167 // 4096), 100 * (1281167 // 1024)}
    assert read_recipe("seit_vits_in100", "classify")["steps"] == 300 * (1281167 // 1024)

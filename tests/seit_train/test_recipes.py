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


def of_in1k(epochs, batch):
    return epochs * (1281167 // batch)


SEITPP = ("seitpp_vits_in100", "seitpp_vitb_finegrained", "seitpp_vitb_limited", "mage_vits_in100")


@pytest.mark.parametrize("name", SEITPP)
def test_iterations_of_seitpp_are_kept_on_other_sets(name):
    mtm, tuned = (config_of(name, task) for task in ("mtm", "classify"))
    assert (mtm.steps, mtm.optim.warmup_steps) == (of_in1k(400, 4096), of_in1k(40, 4096))
    assert (tuned.steps, tuned.optim.warmup_steps) == (of_in1k(100, 1024), of_in1k(5, 1024))


@pytest.mark.parametrize("name", ["seit_vits_in100", "seit_vitb_finegrained", "seit_vitb_limited"])
def test_iterations_of_seit_are_kept_on_other_sets(name):
    config = config_of(name, "classify")
    assert (config.steps, config.optim.warmup_steps) == (of_in1k(300, 1024), of_in1k(5, 1024))


# The papers' tables, row by row: epochs, batch, rate, shape, decay, layer decay, betas, stochastic
# depth, warm-up in epochs. SeiT's are Table B.1; "code" rows of SeiT++ are in its published code.
SHORT, LONG = (0.9, 0.95), (0.9, 0.999)
COLUMNS = {
    ("seit_vitb_in1k", "classify"): (300, 1024, 1.5e-3, "cosine", 0.1, None, LONG, 0.1, 5),
    ("seit_vitb_in21k", "classify"): (270, 2048, 1.5e-3, "cosine", 0.02, None, LONG, 0.1, 5),
    ("seit_vitb_in21k_in1k", "classify"): (100, 4096, 1e-5, "constant", 0.1, None, LONG, 0.15, 5),
    ("seit_vitb_pixels", "pixels"): (100, 512, 5e-4, "cosine", 0.05, None, LONG, 0.1, 5),
    ("seitpp_vitb_in1k", "mtm"): (400, 4096, 2.4e-3, "cosine", 0.05, None, SHORT, 0.0, 40),
    ("seitpp_vitb_in1k", "classify"): (100, 1024, 4e-3, "cosine", 0.1, 0.65, LONG, 0.1, 5),
    ("lut_vits_in1k", "pixels"): (300, 1024, 2e-3, "cosine", 0.05, 0.75, LONG, 0.1, 5),
    ("lut_vitb_in1k", "pixels"): (100, 1024, 1e-3, "cosine", 0.05, 0.65, LONG, 0.1, 5),
    ("lut_vitl_in1k", "pixels"): (50, 1024, 4e-3, "cosine", 0.05, 0.65, LONG, 0.1, 5),
    ("mage_vitb_in1k", "mtm"): (1600, 4096, 2.4e-3, "cosine", 0.05, None, SHORT, 0.0, 40),
}


@pytest.mark.parametrize(("name", "task"), COLUMNS)
def test_a_recipe_has_the_numbers_of_its_papers_table(name, task):
    config = config_of(name, task)
    optim, model = config.optim, config.model
    drop_path = model.encoder.drop_path if task == "mtm" else model.drop_path
    shape = (optim.schedule, optim.weight_decay, optim.layer_decay, optim.betas)
    length = (config.epochs, config.batch_size, config.lr)
    assert (*length, *shape, drop_path, optim.warmup_epochs) == COLUMNS[name, task]
    assert optim.optimizer == "adamw"


def chances(name, task):
    """What a recipe's policy does, by name, from any depth of its lists."""
    found = {}

    def look(entries):
        for entry in entries:
            ((kind, options),) = entry.items()
            found[kind] = options
            for below in ("of", "first", "rest"):
                look(options.get(below, []))

    look(read_recipe(name, task)["augment"])
    return found


def test_augmentations_have_the_chances_of_the_table():
    in1k = chances("seit_vitb_in1k", "classify")
    assert (in1k["eda"]["synonym_p"], in1k["eda"]["swap_p"]) == (0.25, 0.25)
    assert (in1k["emb_noise"]["p"], in1k["cutmix"]["alpha"]) == (0.5, 1.0)
    for name in ("seit_vitb_in21k", "seit_vitb_in21k_in1k"):
        policy = chances(name, "classify")
        assert "eda" not in policy and policy["emb_noise"]["p"] == 0.5 and "cutmix" in policy
    assert "random_crop" in chances("seit_vitb_in21k", "classify")
    pretrained, tuned = (chances("seitpp_vitb_in1k", task) for task in ("mtm", "classify"))
    assert not {"eda", "emb_noise", "cutmix", "mixup"} & set(pretrained)
    assert pretrained["random_resized_crop"]["scale"] == [0.2, 1.0]
    assert pretrained["one_of"]["p"] == [0.25]
    assert tuned["one_of"]["p"] == [0.75, 0.25] and "eda" not in tuned
    assert tuned["token_adapt"]["mixup"] == 0.8 and tuned["token_adapt"]["cutmix"] == 1.0


def test_segmentation_has_the_numbers_of_its_column():
    config = config_of("ade20k_upernet_vitb", "segment")
    assert (config.steps, config.batch_size, config.lr) == (80_000, 16, 6e-5)
    optim = config.optim
    assert (optim.schedule, optim.weight_decay, optim.warmup_steps) == ("poly", 0.01, 1500)
    assert (optim.betas, config.model.width, config.model.head) == (LONG, 768, "upernet")

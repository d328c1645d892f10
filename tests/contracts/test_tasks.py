"""The law of the task (seit_train/tasks/base.py), over every plugin of seit_train.tasks.

A new task adds a line to `SETTINGS`: a model small enough to train here. Tasks that
are fed pictures instead of ranks, or masks beside them, are tested beside their code.
"""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from seit_train.config import RunConfig
from seit_train.data import TokenBatch
from seit_train.tasks.base import Task
from tests.toy_facts import make_batch, make_facts, seeded
from tokenstore.registry import find, names

PACKAGE = "seit_train.tasks"
VIT = {"width": 64, "depth": 2, "heads": 2, "drop_path": 0.0}
IDS = {"ids": {"width": 16, "dropout": 0.0}}
DECODER = {"width": 64, "depth": 1, "heads": 2, "dropout": 0.0}
SETTINGS = {
    "classify": {"model": {**VIT, **IDS}, "label_smoothing": 0.0},
    "tokenadapt": {"model": {"width": 64, "heads": 2}},
    "mtm": {"model": {"encoder": VIT, "decoder": DECODER, **IDS}, "mask": {"high": 0.6}},
}
# The other methods of masked token modelling, held to the same law.
PAIR = {"hidden": 32, "out": 16}
METHODS = {
    "mtm simmim": {"method": "simmim", "mask": {}},
    "mtm mage-c": {
        "method": "mage",
        "mage": {"label_smoothing": 0.0, "contrast": 0.1, "contrastive": PAIR},
    },
    "mtm lut": {"method": "lut", "lut": {"context": PAIR}},
}
DRAWS_NOTHING = {"tokenadapt"}  # its pairs were made before
FACTS = make_facts(side=8, codes=30, width=6, classes=4)


class Looks(TorchDispatchMode):
    """Counts how often the host asks for a value that a device computes, and would have to wait."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique")
        self.count += any(word in str(func) for word in waits)
        return func(*args, **kwargs or {})


def learns_from_ranks_alone(name):
    return find(PACKAGE, name).reads_ranks and not find(PACKAGE, name).uses_masks


@pytest.fixture(params=[*filter(learns_from_ranks_alone, names(PACKAGE)), *METHODS])
def kind(request) -> type[Task]:
    task = request.param.partition(" ")[0]
    assert task in SETTINGS, f"add small settings of task '{task}' to this file"
    found = find(PACKAGE, task)
    return type(found.__name__, (found,), {"case": request.param})


def make_task(kind: type[Task], **settings) -> Task:
    run = {"task": kind.name, "steps": 10, "batch_size": 8, "lr": 1e-3}
    crop = [{"random_resized_crop": {"size": 8}}]
    settings = {"augment": crop, **SETTINGS[kind.name], **METHODS.get(kind.case, {}), **settings}
    if "augment" not in kind.Config.model_fields:
        del settings["augment"]
    return kind(kind.Config(**run, **settings), FACTS)


def make_model(task: Task) -> torch.nn.Module:
    torch.manual_seed(0)
    return task.build_model()


def evaluate(task: Task, model: torch.nn.Module, batches: list[TokenBatch]) -> dict[str, float]:
    with torch.no_grad():
        return task.evaluate(model.eval(), batches)


def padded(batch: TokenBatch, count: int) -> TokenBatch:
    """More rows that are not valid, as the last batch of an evaluation has them."""
    more = make_batch(FACTS, count, seed=77)
    return TokenBatch(
        torch.cat([batch.ranks, more.ranks]),
        torch.cat([batch.labels, more.labels]),
        torch.cat([batch.valid, ~more.valid]),
        torch.cat([batch.index, more.index]),
        None,
    )


def test_it_says_who_it_is(kind):
    assert find(PACKAGE, kind.name) in kind.__mro__
    assert issubclass(kind, Task) and issubclass(kind.Config, RunConfig)
    task = make_task(kind)
    metrics = evaluate(task, make_model(task), [make_batch(FACTS, 4)])
    assert kind.best_metric in metrics
    assert all(name.startswith("val_") and value == value for name, value in metrics.items())


def test_a_task_with_the_defaults_of_its_configuration_fits_a_published_store(kind):
    facts = make_facts(side=32, codes=391, width=32, classes=4)
    run = {"task": kind.name, "steps": 10, "batch_size": 8, "lr": 1e-3}
    kind(kind.Config(**run), facts)


def test_building_depends_on_the_seed_and_on_nothing_else(kind):
    task = make_task(kind)
    first, again = make_model(task), make_model(task)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_loss_depends_on_the_generator_and_on_nothing_else(kind):
    task = make_task(kind)
    model, batch = make_model(task), make_batch(FACTS, 8)
    first, again, other = (task.loss(model, batch, seeded(s)).loss.item() for s in (1, 1, 2))
    assert first == again
    assert (first == other) == (kind.name in DRAWS_NOTHING)


def test_a_loss_is_one_finite_number_and_its_scalars_carry_no_gradient(kind):
    task = make_task(kind)
    result = task.loss(make_model(task), make_batch(FACTS, 8), seeded(1))
    assert result.loss.ndim == 0 and result.loss.isfinite() and result.loss.dtype == torch.float32
    assert all(s.ndim == 0 and not s.requires_grad for s in result.scalars.values())


def test_every_parameter_learns_from_a_batch(kind):
    task = make_task(kind)
    model = make_model(task)
    for seed in range(3):
        task.loss(model, make_batch(FACTS, 8), seeded(seed)).loss.backward()
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    lacking = [n for n, p in learning.items() if p.grad is None or not p.grad.any()]
    assert lacking == []


def test_the_model_compiles_as_one_graph_that_fits_every_step(kind):
    task = make_task(kind)
    model, batch = make_model(task), make_batch(FACTS, 8)
    graphs = CompileCounter()
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    for seed in range(6):
        task.loss(compiled, batch, seeded(seed))
    assert graphs.frame_count <= 2  # the second one knows which length varies


def test_a_step_never_waits_for_the_device(kind):
    task = make_task(kind)
    model, batch = make_model(task), make_batch(FACTS, 8)
    with Looks() as looks:
        task.loss(model, batch, seeded(1)).loss.backward()
    views = 2 if kind.case == "mtm mage-c" else 1
    assert looks.count <= views  # their mask ratios may be drawn on the host


def test_rows_that_pad_a_batch_do_not_count_in_a_loss(kind):
    if kind.case == "mtm mage-c":
        pytest.skip("its loss compares each image with all others; only evaluation has such rows")
    task = make_task(kind, augment=[])
    model, batch = make_model(task).eval(), padded(make_batch(FACTS, 8), 3)
    other = replace(
        batch,
        labels=torch.where(batch.valid, batch.labels, 0),
        ranks=torch.where(batch.valid[:, None, None], batch.ranks, 0),
    )
    losses = [task.loss(model, one, seeded(1)).loss.item() for one in (batch, other)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_metrics_are_the_same_however_the_images_are_divided_and_padded(kind):
    task = make_task(kind)
    model, whole = make_model(task), make_batch(FACTS, 12)
    expected = evaluate(task, model, [whole])
    parts = [whole.rows(slice(0, 5)), padded(whole.rows(slice(5, 12)), 4)]
    assert evaluate(task, model, parts) == pytest.approx(expected, abs=1e-6)
    assert evaluate(task, model, parts) == evaluate(task, model, parts)


def test_its_own_weights_start_it_completely(kind):
    task = make_task(kind)
    model, donor = make_model(task), task.build_model()
    report = task.load_init(model, donor.state_dict())
    trained = {name for name, _ in model.named_parameters()}
    assert trained <= set(report.loaded) and not report.resized
    assert not trained & set(report.unused)
    given = donor.state_dict()
    assert all(torch.equal(p, given[name]) for name, p in model.named_parameters())


def test_layers_are_counted_from_the_input_without_a_gap(kind):
    task = make_task(kind)
    parameters = make_model(task).named_parameters()
    layers = {name: task.layer_of(name) for name, p in parameters if p.requires_grad}
    assert set(layers.values()) == set(range(max(layers.values()) + 1))
    stems = {layer for name, layer in layers.items() if "patch_embed" in name}
    assert stems == {0}


def test_weights_survive_saving_and_loading(kind, tmp_path):
    from safetensors.torch import load_file, save_file

    task = make_task(kind)
    model = make_model(task)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = task.build_model()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    batches = [make_batch(FACTS, 6)]
    assert evaluate(task, other, batches) == evaluate(task, model, batches)


def test_a_few_images_are_learnt_by_heart(kind):
    task = make_task(kind, augment=[])
    model, batch = make_model(task).train(), make_batch(FACTS, 32)
    own = torch.arange(32)[:, None, None] % 30  # each image consists of one rank: easily guessed
    batch = replace(
        batch, ranks=own.expand(32, 8, 8).contiguous(), labels=torch.arange(32) % 30 % 4
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    first = task.loss(model, batch, seeded(0)).loss.item()
    for step in range(60):
        optimizer.zero_grad()
        task.loss(model, batch, seeded(step)).loss.backward()
        optimizer.step()
    assert task.loss(model, batch, seeded(0)).loss.item() < 0.25 * first

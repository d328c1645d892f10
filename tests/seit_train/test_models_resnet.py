"""ResNets on tokens against timm's, and their stem."""

import pytest
import torch
from timm.models import resnet
from timm.optim import param_groups_layer_decay

from seit_train.models.resnet import EnlargingStem, TokenResNet, layer_of
from seit_train.models.stem import IdConfig, IdEmbedding
from seit_train.tasks.classify import Classification, ClassifyConfig
from tests.toy_facts import make_batch, make_facts, seeded

RUN = {"task": "classify", "steps": 10, "batch_size": 8, "lr": 1e-3}
FACTS = make_facts(side=8)


def make_task(**model):
    settings = {"backbone": "resnet18", "drop_path": 0.0, **model}
    return Classification(ClassifyConfig(**RUN, model=settings, augment=[]), FACTS)


@pytest.mark.parametrize(("stride", "factor"), [(4, 1), (8, 2), (12, 3), (16, 4)])
def test_the_stem_brings_a_grid_to_a_quarter_of_the_pictures_sides(stride, factor):
    assert EnlargingStem(5, stride)(torch.zeros(2, 5, 7, 6)).shape == (
        2,
        64,
        7 * factor,
        6 * factor,
    )


def test_behind_its_stem_it_computes_what_timms_resnet_computes():
    torch.manual_seed(0)
    model = TokenResNet("resnet18", EnlargingStem(5, 8), 4, 0.0).eval()
    twin = resnet.resnet18(num_classes=4)
    weights = {n: w for n, w in model.state_dict().items() if not n.startswith("conv1.")}
    assert twin.load_state_dict(weights, strict=False).missing_keys == ["conv1.weight"]
    twin.eval()
    twin.conv1 = twin.maxpool = torch.nn.Identity()
    grid = torch.randn(2, 5, 8, 8, generator=seeded(1))
    with torch.no_grad():
        assert torch.allclose(model(grid), twin(model.conv1(grid)), atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_layers_are_grouped_for_layer_decay_as_timm_groups_them(name):
    with torch.device("meta"):
        twin = getattr(resnet, name)()
    groups = param_groups_layer_decay(twin, layer_decay=0.5)
    scale_of = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    last = layer_of("fc.weight", name)
    for parameter_name, parameter in twin.named_parameters():
        expected = 0.5 ** (last - layer_of(parameter_name, name))
        assert scale_of[id(parameter)] == pytest.approx(expected), parameter_name


@pytest.mark.parametrize("embedding", ["codebook", "ids"])
def test_it_classifies_vectors_and_ranks(embedding):
    task = make_task(embedding=embedding)
    model, batch = task.build_model(), make_batch(FACTS, 4)
    task.loss(model, batch, seeded(1)).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert 0 <= task.evaluate(model.eval(), [batch])["val_top1"] <= 1


def test_one_starts_from_another_and_keeps_its_own_head_and_stem_where_they_differ():
    task, donor = make_task(), make_task()
    report = task.load_init(task.build_model(), donor.build_model().state_dict())
    assert not report.new and not report.unused
    ids = make_task(embedding="ids").build_model().state_dict()
    report = task.load_init(task.build_model(), ids)
    assert report.new == ["conv1.proj.weight"] and "layer1.0.conv1.weight" in report.loaded


def test_the_stem_may_own_an_embedding_of_ranks():
    stem = EnlargingStem(IdEmbedding(40, IdConfig(width=6), None), 8)
    assert stem(torch.zeros(2, 4, 4, dtype=torch.int64)).shape == (2, 64, 8, 8)


def test_the_reduced_one_has_a_third_of_the_channels_in_every_stage():
    model = make_task(backbone="resnet18-third").build_model()
    stages = [getattr(model, f"layer{number}")[-1].conv2.out_channels for number in range(1, 5)]
    assert stages == [20, 40, 80, 160]  # of GEM: about 1.1 million parameters
    assert 1_000_000 < sum(p.numel() for p in model.parameters()) < 1_200_000


@pytest.mark.parametrize("name", ["resnet18", "resnet18-third"])
def test_for_pictures_it_keeps_its_own_stem(name):
    torch.manual_seed(0)
    model = TokenResNet(name, None, 4, 0.0).eval()
    kept = {n: tuple(w.shape) for n, w in model.conv1.state_dict().items()}
    assert kept == {"weight": (64 if name == "resnet18" else 20, 3, 7, 7)}
    with torch.no_grad():
        before = model.maxpool(model.act1(model.bn1(model.conv1(torch.zeros(1, 3, 64, 96)))))
    assert before.shape[2:] == (16, 24)

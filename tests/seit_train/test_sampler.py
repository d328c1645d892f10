"""Drawing ranks by iterative parallel decoding, and `seit-train sample`."""

import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from seit_train.cli.main import main
from seit_train.launch import train
from seit_train.models.masking import MaskConfig
from seit_train.models.mtm import MaskedModel
from seit_train.models.sampler import SamplerConfig, count_left, sample_ranks
from seit_train.tasks.mtm import MaskedTokenModelling, MtmConfig
from tests.toy_facts import make_facts, seeded
from tokenstore.errors import UsageError

MASKS = MaskConfig(low=0.5, mean=0.55)
SETTINGS = SamplerConfig(iterations=8)


class Oracle(nn.Module):
    """Predicts one picture with certainty, and notes what it was shown."""

    def __init__(self, picture):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.positions = (4, 4)
        self.patch, self.picture, self.plans, self.shown = 2, picture, [], []

    def forward(self, ranks, plan):
        self.plans.append(plan)
        self.shown.append(ranks.clone())
        patches = self.picture.view(4, 2, 4, 2).transpose(1, 2).reshape(16, 4)
        return nn.functional.one_hot(patches[plan.masked], 30) * 50.0


def test_what_is_certain_is_drawn():
    picture = torch.randint(30, (8, 8), generator=seeded(1))
    drawn = sample_ranks(Oracle(picture), 3, MASKS, SETTINGS, seeded(2))
    assert torch.equal(drawn, picture.expand(3, 8, 8))


def test_fewer_positions_are_masked_in_each_iteration_and_what_is_settled_stays():
    oracle = Oracle(torch.randint(30, (8, 8), generator=seeded(1)))
    drawn = sample_ranks(oracle, 2, MASKS, SETTINGS, seeded(2))
    masked = [plan.masked.shape[1] for plan in oracle.plans]
    assert masked == sorted(set(masked), reverse=True) and masked[0] == 16
    assert masked[1:] == [math.floor(math.cos(math.pi / 2 * i / 8) * 16) for i in range(1, 8)]
    for plan, ranks in zip(oracle.plans, oracle.shown, strict=True):
        for image in range(2):
            for position in set(range(16)) - set(plan.masked[image].tolist()):
                y, x = 2 * (position // 4), 2 * (position % 4)
                settled = ranks[image, y : y + 2, x : x + 2]
                assert torch.equal(settled, drawn[image, y : y + 2, x : x + 2])


def test_the_encoder_meets_as_many_positions_as_in_training_while_enough_are_masked():
    oracle = Oracle(torch.zeros(8, 8, dtype=torch.int64))
    sample_ranks(oracle, 1, MASKS, SETTINGS, seeded(2))
    for plan in oracle.plans:
        assert plan.kept.shape[1] == 16 - min(8, plan.masked.shape[1])


@pytest.mark.parametrize("iterations", [1, 5, 40])
def test_every_iteration_settles_something_and_the_last_one_everything(iterations):
    masked, counts = 16, []
    for number in range(1, iterations + 1):
        masked = count_left(number / iterations, 16, masked)
        counts.append(masked)
        if masked == 0:
            break
    assert counts[-1] == 0 and counts == sorted(set(counts), reverse=True)


def make_model():
    size = {"width": 24, "depth": 1, "heads": 2}
    settings = {"encoder": size, "decoder": size, "ids": {"width": 8}}
    run = {"task": "mtm", "steps": 1, "batch_size": 1, "lr": 1.0}
    config = MtmConfig(**run, model=settings, augment=[], method="mage")
    torch.manual_seed(0)
    return MaskedTokenModelling(config, make_facts(side=8, codes=30)).build_model().eval()


def test_equal_seeds_draw_equal_pictures_and_others_differ():
    model = make_model()
    assert isinstance(model, MaskedModel)
    drawn = [sample_ranks(model, 2, MASKS, SETTINGS, seeded(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_without_a_look_at_the_rest_ranks_follow_what_the_model_believes():
    """One iteration draws everything at once: by frequency, for a model that knows no more."""
    model = make_model()
    with torch.no_grad():
        for weight in (model.decoder_head_norm.weight, model.decoder_head_norm.bias):
            weight.zero_()
    drawn = sample_ranks(model, 400, MASKS, SamplerConfig(iterations=1), seeded(3))
    shares = torch.bincount(drawn.flatten(), minlength=30) / drawn.numel()
    assert (shares - model.decoder_head_bias.softmax(dim=0)).abs().max() < 0.01


# ------------------------------------------------------------------------------ the command


def sample(*arguments):
    return CliRunner().invoke(main, ["sample", *map(str, arguments)])


def test_a_run_draws_a_sheet_of_pictures(request_run, tmp_path):
    train(request_run("mtm", "method=mage", "steps=2"))
    done = sample(tmp_path / "run", "-o", tmp_path / "a.png", "--count", 5, "--iterations", 3)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "a.png")
    again = sample(tmp_path / "run", "-o", tmp_path / "b.png", "--count", 5, "--iterations", 3)
    assert again.exit_code == 0
    first, second = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in "ab")
    assert first.shape[0] > 256 and np.array_equal(first, second)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("method=simmim",), "never saw more than 60% of an image masked"),
        (("method=lut", "lut.base=null", "lut.context.hidden=16"), "without predicting ranks"),
    ],
)
def test_a_run_that_cannot_draw_is_refused(request_run, tmp_path, overrides, words):
    train(request_run("mtm", *overrides, "steps=1"))
    refused = sample(tmp_path / "run", "-o", tmp_path / "a.png")
    assert refused.exit_code != 0
    assert isinstance(refused.exception, UsageError | SystemExit)
    assert words in refused.stderr + str(refused.exception)


def test_a_classifier_draws_nothing(request_run, tmp_path):
    train(request_run("classify", "steps=1"))
    refused = sample(tmp_path / "run", "-o", tmp_path / "a.png")
    assert "only runs of mtm draw pictures" in refused.stderr + str(refused.exception)

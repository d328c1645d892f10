"""The law of the augmentation (seit_train/augment/base.py), over every plugin of the folder."""

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from seit_train.augment.base import Augmentation, View
from seit_train.augment.compose import make_augmentation
from seit_train.augment.token_adapt import token_adapt_origin
from seit_train.embed import Codebook
from seit_train.models.token_adapt import TokenAdapt, TokenAdaptConfig
from tests.toy_facts import make_batch, make_facts, seeded
from tokenstore.registry import names

FACTS = make_facts(side=8)
RANKS = make_batch(FACTS, 16).ranks
DRAWS_NOTHING = {"center_crop"}
WAITS = {"roundtrip"}  # its tokenizer gives ids on the CPU
NAMES = [name.replace("-", "_") for name in names("seit_train.augment")]


class NoLookAtValues(TorchDispatchMode):
    """Fails where the host would have to wait for a value that a device computes."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default")
        assert not any(word in str(func) for word in waits), f"{func} waits for the device"
        return func(*args, **kwargs or {})


class CountOperations(TorchDispatchMode):
    """How many operations ran."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **kwargs or {})


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> str:
    """Weights of a small, untrained TokenAdapt for these facts."""
    file = tmp_path_factory.mktemp("adapter") / "model.safetensors"
    config = TokenAdaptConfig(width=16, heads=2)
    torch.manual_seed(0)
    model = TokenAdapt(config, FACTS.grid, FACTS.codebook.shape[1], FACTS.codes.ids)
    save_file(model.state_dict(), file, token_adapt_origin(config, FACTS.codes.tokenizer))
    return str(file)


@pytest.fixture
def augmentation(name, adapter, toy_tokenizer) -> Augmentation:
    options = {"weights": adapter} if name == "token_adapt" else {}
    return make_augmentation({name: options}, FACTS.surroundings)


def inputs(augmentation: Augmentation) -> list[torch.Tensor]:
    """The batch in every form that the augmentation says it takes."""
    grids = Codebook(FACTS.codebook, "cosine")(RANKS)
    return {"ranks": [RANKS], "grid": [grids], "any": [RANKS, grids]}[augmentation.space]


def test_the_same_seed_gives_the_same_and_another_one_does_not(augmentation, name):
    for tokens in inputs(augmentation):
        first, again, other = (
            augmentation(View(tokens, torch.eye(16)), seeded(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(first.tokens, again.tokens)
        assert torch.equal(first.targets, again.targets)
        assert torch.equal(first.tokens, other.tokens) == (name in DRAWS_NOTHING)


def test_what_comes_in_is_left_as_it_was(augmentation):
    for tokens in inputs(augmentation):
        kept, targets = tokens.clone(), torch.eye(16)
        augmentation(View(tokens, targets), seeded(1))
        assert torch.equal(tokens, kept)
        assert torch.equal(targets, torch.eye(16))


def test_what_comes_out_has_the_size_it_says_and_the_kind_that_came_in(augmentation):
    for tokens in inputs(augmentation):
        after = augmentation(View(tokens, torch.eye(16)), seeded(1))
        assert after.tokens.shape == (*tokens.shape[:-2], *augmentation.size)
        assert after.tokens.dtype == tokens.dtype
        assert after.tokens.isfinite().all()


def test_targets_stay_shares_of_one_and_none_stays_none(augmentation):
    for tokens in inputs(augmentation):
        targets = augmentation(View(tokens, torch.eye(16)), seeded(1)).targets
        assert targets.min() >= 0
        assert torch.allclose(targets.sum(dim=1), torch.ones(16))
        assert augmentation(View(tokens, None), seeded(1)).targets is None


def test_only_the_generator_is_random(augmentation):
    for tokens in inputs(augmentation):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        augmentation(View(tokens, None), seeded(1))
        assert torch.equal(torch.get_rng_state(), state)


def test_the_host_looks_at_no_value(augmentation, name):
    if name in WAITS:
        pytest.skip("by its nature it waits: the tokenizer is called inside the step")
    for tokens in inputs(augmentation):
        with NoLookAtValues():
            augmentation(View(tokens, torch.eye(16)), seeded(1))


def test_it_does_not_loop_over_images(augmentation):
    """A CPU resizes eight images at a time; within those, more images are not more operations."""
    for tokens in inputs(augmentation):
        counts = []
        for images in (2, 8):
            with CountOperations() as operations:
                augmentation(View(tokens[:images], torch.eye(16)[:images]), seeded(1))
            counts.append(operations.count)
        assert counts[0] == counts[1]


def test_it_compiles_to_one_graph(augmentation, name):
    """With torch's own generator: dynamo of torch 2.15 cannot take one as an argument."""
    if name in WAITS:
        pytest.skip("by its nature it waits: the tokenizer is called inside the step")
    for tokens in inputs(augmentation):
        torch.compiler.reset()
        compiled = torch.compile(augmentation, backend="eager", fullgraph=True)
        torch.manual_seed(1)
        expected = augmentation(View(tokens, torch.eye(16)), None)
        torch.manual_seed(1)
        found = compiled(View(tokens, torch.eye(16)), None)
        assert torch.equal(found.tokens, expected.tokens)
        assert torch.equal(found.targets, expected.targets)


def test_from_ranks_it_gives_what_it_gives_of_their_vectors(augmentation):
    if augmentation.space != "grid":
        pytest.skip("it works on ranks themselves")
    embed = Codebook(FACTS.codebook, "cosine")
    at_once = augmentation.from_ranks(View(RANKS, torch.eye(16)), embed, seeded(1))
    after = augmentation(View(embed(RANKS), torch.eye(16)), seeded(1))
    assert torch.allclose(at_once.tokens, after.tokens, atol=1e-5)
    assert torch.equal(at_once.targets, after.targets)


def test_nothing_in_it_learns(augmentation):
    assert not any(p.requires_grad for p in augmentation.parameters())

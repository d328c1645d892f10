"""Crops against torch's own interpolation, torchvision's boxes and slices."""

import pytest
import torch
from torch.nn import functional
from torchvision.transforms import RandomResizedCrop as PublishedCrop

from seit_train.augment.crop import (
    center_crop,
    cut,
    draw_boxes,
    embed_boxes,
    resize_boxes,
    resize_matrix,
)
from seit_train.embed import Codebook
from tests.toy_facts import make_batch, make_facts, seeded

SHAPE = (3 / 4, 4 / 3)


def all_boxes(rows: int, columns: int) -> torch.Tensor:
    boxes = [
        (top, left, height, width)
        for height in range(1, rows + 1)
        for width in range(1, columns + 1)
        for top in range(rows - height + 1)
        for left in range(columns - width + 1)
    ]
    return torch.tensor(boxes)


def crop_then_interpolate(grid, box, size):
    top, left, height, width = box.tolist()
    part = grid[None, :, top : top + height, left : left + width]
    return functional.interpolate(part, size, mode="bicubic", align_corners=False)[0]


@pytest.mark.parametrize(("rows", "columns", "size"), [(8, 8, (7, 7)), (6, 7, (6, 9))])
def test_resized_crop_equals_crop_then_bicubic_interpolation_for_every_box(rows, columns, size):
    boxes = all_boxes(rows, columns)
    grids = torch.randn(len(boxes), 3, rows, columns, generator=seeded(0))
    fast = resize_boxes(grids, boxes, size)
    slow = torch.stack(
        [crop_then_interpolate(*one, size) for one in zip(grids, boxes, strict=True)]
    )
    assert (fast - slow).abs().max() < 1e-5


@pytest.mark.parametrize(("rows", "columns", "size"), [(8, 8, (7, 7)), (6, 7, (6, 9))])
def test_embedding_while_resizing_equals_one_hot_ids_resized_times_the_codebook_for_every_box(
    rows, columns, size
):
    boxes, codebook = all_boxes(rows, columns), torch.randn(20, 4, generator=seeded(9))
    ranks = torch.randint(20, (len(boxes), rows, columns), generator=seeded(10))
    fast = embed_boxes(ranks, Codebook(codebook, "cosine"), boxes, size)
    one_hot = functional.one_hot(ranks, 20).permute(0, 3, 1, 2).float()
    slow = torch.stack(
        [crop_then_interpolate(*one, size) for one in zip(one_hot, boxes, strict=True)]
    )
    assert (fast - torch.einsum("bkhw,kd->bdhw", slow, codebook)).abs().max() < 1e-5


def test_resized_crop_of_vectors_equals_that_of_one_hot_ids_times_the_codebook():
    facts = make_facts(side=32, codes=50, width=8)
    ranks = make_batch(facts, 20).ranks
    boxes = draw_boxes(ranks, (0.08, 1.0), SHAPE, seeded(4))
    codebook = Codebook(facts.codebook, "cosine")
    on_grids = resize_boxes(codebook(ranks), boxes, (28, 28))
    from_ranks = embed_boxes(ranks, codebook, boxes, (28, 28))
    one_hot = functional.one_hot(ranks, 50).permute(0, 3, 1, 2).double()
    slow = torch.stack(
        [crop_then_interpolate(*one, (28, 28)) for one in zip(one_hot, boxes, strict=True)]
    )
    slow = torch.einsum("bkhw,kd->bdhw", slow, facts.codebook.double())
    assert (on_grids - slow).abs().max() < 1e-5
    assert (from_ranks - slow).abs().max() < 1e-5


def test_a_box_of_the_final_size_is_cut_out_unchanged():
    grid = torch.randn(2, 3, 8, 8, generator=seeded(5))
    boxes = torch.tensor([[1, 0, 7, 7], [0, 1, 7, 7]])
    assert torch.equal(resize_boxes(grid, boxes, (7, 7))[0], grid[0, :, 1:, :7])


def test_every_row_of_a_resize_matrix_sums_to_one_and_stays_in_the_cut():
    matrix = resize_matrix(torch.tensor([3]), torch.tensor([4]), 12, 7)[0]
    assert torch.allclose(matrix.sum(dim=1), torch.ones(7))
    assert matrix[:, :3].count_nonzero() == matrix[:, 7:].count_nonzero() == 0


def test_boxes_lie_in_the_grid_and_are_distributed_as_torchvision_draws_them():
    boxes = draw_boxes(torch.empty(20000, 32, 32), (0.08, 1.0), SHAPE, seeded(6)).double()
    assert boxes.min() >= 0 and boxes[:, 2:].min() >= 1
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 32
    image = torch.empty(1, 32, 32)
    torch.manual_seed(7)
    published = [PublishedCrop.get_params(image, [0.08, 1.0], list(SHAPE)) for _ in range(4000)]
    published = torch.tensor(published).double()
    assert (boxes.mean(dim=0) - published.mean(dim=0)).abs().max() < 0.3
    assert (boxes.std(dim=0) - published.std(dim=0)).abs().max() < 0.3


def test_where_no_box_fits_it_is_the_largest_centred_one_of_an_allowed_shape():
    assert draw_boxes(torch.empty(3, 4, 32), (1.0, 1.0), SHAPE, seeded(8)).unique(
        dim=0
    ).tolist() == [[0, 13, 4, 5]]


def test_centre_crop_takes_the_middle_of_ranks_and_of_grids():
    ranks = torch.arange(32 * 32).view(1, 32, 32)
    assert torch.equal(center_crop(ranks, (28, 28)), ranks[:, 2:30, 2:30])
    assert torch.equal(center_crop(ranks[:, None], (28, 28))[:, 0], ranks[:, 2:30, 2:30])


def test_cutting_commutes_with_embedding():
    facts = make_facts()
    ranks, codebook = make_batch(facts, 3).ranks, Codebook(facts.codebook, "cosine")
    places = torch.tensor([0, 1, 3]), torch.tensor([2, 0, 1])
    assert torch.equal(cut(ranks, *places, (5, 4))[2], ranks[2, 3:8, 1:5])
    embedded = codebook(cut(ranks, *places, (5, 4)))
    assert torch.equal(cut(codebook(ranks), *places, (5, 4)), embedded)

"""Which arithmetic `auto` takes."""

import pytest
import torch

from seit_train.precision import autocast, resolve_precision
from tokenstore.errors import UsageError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
)
def test_auto_on_a_cpu_is_bf16_where_there_are_instructions_for_it(
    monkeypatch, capabilities, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) == expected


def test_what_is_asked_is_taken():
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("fp16", torch.device("cuda")) == "fp16"


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UsageError, match=r"loop\.precision=auto"):
        resolve_precision("fp16", CPU)


def test_autocast_makes_products_of_that_precision():
    a = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert (a @ a).dtype == dtype

"""The sketch's one kernel gives the bits of the plain loop: run by numpy, and by Triton's interpreter where it is."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ntkcli.engine.gradients import sketch
from ntkcli.engine.gradients.sketch import Sketch
from tests.engine.gradients import numpy_triton

CPU = torch.device("cpu")
MODULE = "ntkcli.engine.gradients.sketch_kernel"
INTERPRETERS = ["numpy", *(["triton"] if find_spec("triton") else [])]


@pytest.fixture(params=INTERPRETERS)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the kernel, its programs run by numpy or by Triton's own interpreter."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    if request.param == "numpy":
        for name, module in numpy_triton.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    made = importlib.import_module(MODULE)
    yield made
    sys.modules.pop(MODULE, None)


@pytest.mark.parametrize(
    ("rows", "rank", "columns", "dim"),
    [
        (3, 4, 50, 64),
        (2, 8, 40, 16),
        (1, 2, 100, 33),
        (2, 3, 16, 16),
        (1, 1, 1, 1),
        (2, 2, 1500, 1200),
        (1, 2, 7, 2500),
    ],
)
def test_bits_of_the_plain_loop(kernel: Any, rows: int, rank: int, columns: int, dim: int) -> None:
    """Sizes below, at and above p; more than a block of lanes; two factors into one accumulator."""
    plain, one = Sketch(dim, 5, CPU), Sketch(dim, 5, CPU, add_factor=kernel.add)
    draw = torch.Generator().manual_seed(0)
    totals = []
    gradients = [torch.randn(rows, rank, d, generator=draw) for d in (columns, max(1, columns // 2))]
    for made in (plain, one):
        factors = [made.factor(f"layer.{i}", rank, g.shape[2]) for i, g in enumerate(gradients)]
        total = made.zeros(rows)
        for gradient, factor in zip(gradients, factors, strict=True):
            made.add(total, gradient * factor.alpha[:, None], factor)
        totals.append(made.finish(total).numpy())
    np.testing.assert_array_equal(totals[0], totals[1])
    assert np.abs(totals[0]).sum() > 0


def test_gradients_that_are_views_of_a_larger_one(kernel: Any) -> None:
    """Layers that read one input are contracted together, and then split along the ranks."""
    together = torch.randn(2, 7, 30, generator=torch.Generator().manual_seed(1))
    for view in (together[:, 3:6], together.transpose(1, 2)):
        plain, one = Sketch(16, 0, CPU), Sketch(16, 0, CPU, add_factor=kernel.add)
        found = []
        for made in (plain, one):
            factor = made.factor("x", *view.shape[1:])
            total = made.zeros(len(view))
            made.add(total, view, factor)
            found.append(made.finish(total).numpy())
        np.testing.assert_array_equal(found[0], found[1])


def test_the_check_runs_the_kernel(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.check(CPU)
    monkeypatch.setattr(kernel, "add", lambda *arguments, **named: None)
    with pytest.raises(RuntimeError, match="adds up wrong numbers on cpu"):
        kernel.check(CPU)


def test_a_gradient_that_is_to_be_differentiated_goes_the_plain_way() -> None:
    """The adjoint of the sketch is found by autograd, which knows nothing of a kernel."""

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("the kernel has no gradient")

    made = Sketch(8, 0, CPU, add_factor=refuse)
    factor, total = made.factor("x", 2, 5), made.zeros(1)
    gradient = torch.ones(1, 2, 5, requires_grad=True)
    made.add(total, gradient, factor)
    (found,) = torch.autograd.grad(made.finish(total).sum(), gradient)
    assert found[0].abs().tolist() == [[1.0] * 5] * 2


def test_without_triton_the_plain_loop_is_used_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(sketch, "note", shown.append)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    sketch.one_kernel.cache_clear()
    assert sketch.one_kernel(CPU) is None
    assert shown == []
    assert sketch.one_kernel(torch.device("cuda:0")) is None
    sketch.one_kernel.cache_clear()
    assert "Install triton and a C compiler" in shown[0]


def test_the_kernel_knows_nothing_but_triton() -> None:
    """Triton refuses any other global name in a kernel, also in annotations; and where it is, it compiles for cards."""
    source = Path(*MODULE.split(".")).with_suffix(".py")
    (kernel,) = [one for one in ast.parse((ROOT / source).read_text()).body if getattr(one, "name", "") == "_add"]
    names = {node.id for node in ast.walk(kernel) if isinstance(node, ast.Name)}
    own = {node.arg for node in ast.walk(kernel) if isinstance(node, ast.arg)}
    stored = {node.id for node in ast.walk(kernel) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert names - own - stored == {"tl", "triton", "range"}  # triton: its decorator
    if find_spec("triton"):
        environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
        ran = subprocess.run(
            [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.split() == ["cubin", "cubin"]


ROOT = Path(__file__).parents[3]
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ntkcli.engine.gradients.sketch_kernel import _add
pointers = {"total": "*fp32", "gradient": "*fp32", "offsets": "*i32", "beta": "*fp32"}
numbers = dict.fromkeys(["width", "columns", "dim", "gradient_row", "gradient_rank"], "i32")
sizes = {"RANK": 16, "SEGMENTS": 2, "BLOCK": 1024}
for card in (80, 90):
    signature = {**pointers, **numbers, **dict.fromkeys(sizes, "constexpr")}
    source = ASTSource(fn=_add, signature=signature, constexprs=sizes)
    print("cubin" if triton.compile(source, target=GPUTarget("cuda", card, 32)).asm["cubin"] else "nothing")
"""

"""What the pass adds to the CUDA code that Inductor writes; no GPU is needed for it."""

import functools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from tract_fx.ops.gpu.launch import Device, plan
from tract_fx.ops.patches import LINEAR, PatchGeometry

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.codegen]

# The first layers of `write_code`: rows, features, outputs.
LAYERS = {"stem": (8 * 32 * 32, 147, 16), "patches": (32 * 8 * 8, 48, 32)}


@functools.cache
def written() -> dict[str, dict[str, str]]:
    pytest.importorskip("triton")
    with tempfile.TemporaryDirectory() as folder:
        finished = subprocess.run(
            [sys.executable, "-m", "tests.gpu.write_code"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "TORCHINDUCTOR_CACHE_DIR": folder},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return json.loads(finished.stdout)


def lines(name: str, side: str = "backward") -> list[str]:
    return [line.strip() for line in written()[name][side].splitlines() if not line.lstrip().startswith("#")]


def launches(code: list[str]) -> int:
    return sum(line.startswith("triton_") and ".run(" in line for line in code)


def buffers(code: list[str]) -> list[tuple[int, str]]:
    """Elements and dtypes of what is allocated."""
    found = re.findall(r"empty_strided_cuda\(\(([\d, ]*)\), .*?, torch\.(\w+)\)", "\n".join(code))
    return [(math.prod(int(size) for size in sizes.split(",") if size.strip()), dtype) for sizes, dtype in found]


def operators(code: list[str], name: str) -> list[str]:
    return [line for line in code if re.match(rf"buf\d+ = torch\.ops\.{re.escape(name)}\(", line)]


@pytest.mark.parametrize("name", LAYERS)
def test_the_forward_code_is_the_plain_one(name: str) -> None:
    plain, rewritten = lines(f"{name} plain", "forward"), lines(f"{name} rewritten", "forward")
    assert launches(rewritten) == launches(plain)
    # A copy of the weight that only the plain backward pass reads may be gone.
    assert Counter(size for size in buffers(rewritten) if size[0] > 1) <= Counter(buffers(plain))
    assert not any("tract_fx" in line for line in rewritten)


@pytest.mark.parametrize("name", LAYERS)
def test_both_sums_come_from_one_operator_and_its_inputs_are_not_copied(name: str) -> None:
    """The image and the gradient reach it in the layer's dtype and in the layout that they have already."""
    plain, code = lines(f"{name} plain"), lines(f"{name} rewritten")
    assert len(operators(code, "tract_fx.gram_and_gradient.default")) == 1
    large = min(LAYERS[name][0] * LAYERS[name][2], 8 * 3 * 64 * 64)
    assert sorted(size for size in buffers(code) if size[0] >= large) == sorted(
        size for size in buffers(plain) if size[0] >= large
    )


@pytest.mark.parametrize("name", LAYERS)
def test_the_system_is_solved_by_one_operator(name: str) -> None:
    """One tag keeps all of it out of a CUDA graph, should that be needed."""
    code = lines(f"{name} rewritten")
    assert len(operators(code, "tract_fx.factor_and_solve.default")) == 1
    assert not any("cholesky" in line for line in code)


@pytest.mark.parametrize("name", LAYERS)
def test_few_kernels_are_added(name: str) -> None:
    """One reads the trace, one shifts the diagonal, one chooses and casts; PyTorch 2.15 fuses one of them."""
    assert launches(lines(f"{name} rewritten")) <= launches(lines(f"{name} plain")) + 3


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_of_the_size_of_rows_and_features_is_allocated(name: str) -> None:
    rows, features, outputs = LAYERS[name]
    largest = max(size for size, _ in buffers(lines(f"{name} rewritten")))
    assert largest < rows * features
    wide = [size for size, dtype in buffers(lines(f"{name} rewritten")) if dtype == "float64"]
    assert max(wide, default=0) <= features * max(features, outputs)


@pytest.mark.parametrize(("name", "masks"), [("stem", [(True, True)]), ("patches", [(False, False)])])
def test_the_plain_weight_gradient_of_the_first_layer_is_not_computed(
    name: str, masks: list[tuple[bool, bool]]
) -> None:
    """What is left of ``convolution_backward`` is the second layer's, or the gradient of the first one's bias."""
    code = "\n".join(operators(lines(f"{name} rewritten"), "aten.convolution_backward.default"))
    found = re.findall(r"\[(True|False), (True|False), (?:True|False)\]\)", code)
    assert found == [(str(input), str(weight)) for input, weight in masks]


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_keeps_its_layout_and_dtype(name: str) -> None:
    features, outputs = LAYERS[name][1:]
    of_weight = (features * outputs, "float32")
    assert buffers(lines(f"{name} plain")).count(of_weight) == buffers(lines(f"{name} rewritten")).count(of_weight) >= 1


# Layers in float32 and the dual form: what is written for sm_90, where float64 is fast, and for sm_89, where it is not.
CARDS = {"rewritten": Device(132, (9, 0)), "rewritten sm_89": Device(128, (8, 9))}
FORMS = ("conv float32", "linear primal", "linear dual", "linear dual bfloat16")
PRODUCTS = re.compile(r"extern_kernels\.(?:mm|addmm|bmm|baddbmm)\((.*)\)|torch\.ops\.aten\.(?:mm|addmm|bmm|baddbmm)")


def float64_products(code: list[str]) -> list[str]:
    """Calls of a library's product that read or write a tensor in float64."""
    wide = set(re.findall(r"(\w+) = empty_strided_cuda\([^\n]*torch\.float64\)", "\n".join(code)))
    wide |= {name for line in code for name in re.findall(r"^(\w+) = torch\.ops\.tract_fx", line)}
    names = [(line, set(re.findall(r"\w+", line))) for line in code if PRODUCTS.search(line)]
    return [line for line, used in names if used & wide]


def products_of_size(code: list[str], size: int) -> list[str]:
    """Calls of a library's product that write so many elements."""
    sizes = {
        name: math.prod(int(extent) for extent in shape.split(",") if extent.strip())
        for name, shape in re.findall(r"(\w+) = empty_strided_cuda\(\(([\d, ]*)\)", "\n".join(code))
    }
    found = [(line, re.search(r"out=(?:reinterpret_tensor\()?(\w+)", line)) for line in code if PRODUCTS.search(line)]
    return [line for line, out in found if out is None or sizes.get(out.group(1)) == size]


@pytest.mark.parametrize("side", CARDS)
@pytest.mark.parametrize("name", FORMS)
def test_no_product_is_in_float64_where_that_is_slow(name: str, side: str) -> None:
    """Where it is fast, the dual form has one: coefficients times rows."""
    code = lines(f"{name} {side}")
    wanted = int("dual" in name and CARDS[side].has_fast_float64)
    assert len(float64_products(code)) == wanted
    sums = operators(code, "tract_fx.weight_gradient.default")
    assert len(sums) == int("dual" in name and not CARDS[side].has_fast_float64)


@pytest.mark.parametrize("side", CARDS)
@pytest.mark.parametrize("shape", [(32, 3, 32, 32), (512, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nor_has_the_operator_of_both_sums_any(shape: tuple[int, ...], dtype: torch.dtype, side: str) -> None:
    """The kernel that it launches multiplies float32 numbers in float32 there, and narrower ones everywhere."""
    geometry = LINEAR if len(shape) == 2 else PatchGeometry((4, 4), (4, 4), (0, 0), (1, 1))
    input = torch.empty(shape, dtype=dtype, device="meta")
    outputs = torch.empty(shape[0], 32, *geometry.outputs(shape[2:]), dtype=dtype, device="meta")
    products = plan(input, geometry, CARDS[side], outputs).constants["PRODUCTS"]
    assert (products == "float64") == (dtype == torch.float32 and CARDS[side].has_fast_float64)


@pytest.mark.parametrize("side", CARDS)
@pytest.mark.parametrize("name", FORMS)
def test_the_plain_weight_gradient_is_not_computed_in_any_form(name: str, side: str) -> None:
    code = lines(f"{name} {side}")
    of_convolution = "\n".join(operators(code, "aten.convolution_backward.default"))
    assert not re.search(r"\[(?:True|False), True, (?:True|False)\]\)", of_convolution)
    of_weight = {"conv float32": 48 * 32}.get(name, 96 * 32)
    found = products_of_size(code, of_weight)
    assert found == float64_products(code), "what has its size is the new gradient"
    assert len(operators(code, "tract_fx.factor_and_solve.default")) == 1

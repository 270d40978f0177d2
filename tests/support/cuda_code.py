"""The CUDA code that Inductor writes for a training step, on a machine without a GPU.

Graphs are traced on the CPU. Before Inductor lowers one, it is moved to fake CUDA tensors, and what Inductor and Triton ask
about the device is answered for a card that is not there. Inductor stops when the code is written, and the graph itself
runs on the CPU in its place, so that the backward pass is traced too.

The patches are wide: use it in a process of its own.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._inductor import compile_fx as inductor
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import BoxedBool
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._triton import has_triton

from tract_fx import compat, tract_backend
from tract_fx.ops import dual, operands
from tract_fx.ops.gpu.launch import Device

CUDA = torch.device("cuda:0")
MULTIPROCESSORS = {80: 108, 89: 128, 90: 132}


@dataclasses.dataclass
class Written:
    """Code of the forward and the backward graph."""

    forward: str = ""
    backward: str = ""


class _WrittenError(Exception):
    """Ends the compilation of a graph whose code is there."""


def write_step(
    model: nn.Module, input: Tensor, capability: int, lam: float | None, dtype: torch.dtype | None = torch.bfloat16
) -> Written:
    """The code of a training step under autocast to ``dtype``, if there is one; ``lam=None`` is the plain compile."""
    written = Written()
    slow = not Device(1, divmod(capability, 10)).has_fast_float64

    def step(input: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            return model(input).float().square().sum()

    def compile_plain(gm: torch.fx.GraphModule, inputs: Any, patches: dict[str, Any] | None = None) -> Any:
        return inductor.compile_fx(gm, inputs, inner_compile=_writer(written, capability), config_patches=patches)

    options = {"fx_graph_cache": False, "compile_threads": 1}
    with (
        torch._inductor.config.patch(options),
        mock.patch.object(compat, "compile_fx", compile_plain),
        # The pass asks for the device while it traces: a CPU has an operator of its own.
        mock.patch.object(operands, "_is_on_cpu", return_value=False),
        mock.patch.object(dual, "_is_on_cpu", return_value=False),
        mock.patch.object(dual, "_is_float64_slow", return_value=slow),
    ):
        backend = compile_plain if lam is None else tract_backend(lam)
        torch.compile(step, backend=backend, fullgraph=True, dynamic=False)(input).backward()
    return written


def _writer(written: Written, capability: int) -> Callable[..., Any]:
    def inner_compile(gm: torch.fx.GraphModule, inputs: Any, **options: Any) -> Callable[..., Any]:
        side = "backward" if options.get("is_backward") else "forward"
        options.pop("boxed_forward_device_index", None)
        options["cudagraphs"] = BoxedBool(False)

        def stop(lowering: GraphLowering) -> None:
            code = (lowering.codegen_with_cpp_wrapper() if lowering.cpp_wrapper else lowering.codegen())[0]
            setattr(written, side, getattr(code, "value", code))
            raise _WrittenError

        with _device(capability), mock.patch.object(GraphLowering, "_compile_to_module", stop):
            moved, fakes, mode = _on_fake_device(gm)
            with tracing(TracingContext(mode)):
                try:
                    inductor.compile_fx_inner(moved, fakes, **options)
                except Exception:  # Inductor wraps it
                    if not getattr(written, side):
                        raise

        def run(arguments: list[Any]) -> Any:
            values = list(arguments)
            arguments.clear()
            return gm(*values)

        run._boxed_call = True
        return run

    return inner_compile


def _on_fake_device(gm: torch.fx.GraphModule) -> tuple[torch.fx.GraphModule, list[Any], FakeTensorMode]:
    """A copy of a graph on fake CUDA tensors, and these for its inputs."""
    gm = copy.deepcopy(gm)
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    inputs = []
    with mode:
        for node in gm.graph.nodes:
            if node.kwargs.get("device") is not None:
                node.kwargs = {**node.kwargs, "device": CUDA}
            if node.op != "placeholder":
                node.meta.pop("val", None)
                continue
            value = node.meta["val"]
            if isinstance(value, Tensor):
                value = torch.empty_strided(tuple(value.shape), value.stride(), dtype=value.dtype, device=CUDA)
            node.meta["val"] = value
            node.meta.pop("tensor_meta", None)
            inputs.append(value)
        for name, value in [*gm.named_buffers(), *vars(gm).items()]:
            if isinstance(value, Tensor):
                device = CUDA if value.dim() else "cpu"
                setattr(gm, name, torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device))
    gm.recompile()
    FakeTensorProp(gm, mode).propagate_dont_convert_inputs(*inputs)
    return gm, inputs, mode


class _NoGuard:
    """In the place of the context that makes a device the current one."""

    def __init__(self, *_: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _properties(capability: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        name="a card that is not here",
        type="cuda",
        index=0,
        cc=capability,
        major=capability // 10,
        minor=capability % 10,
        multi_processor_count=MULTIPROCESSORS[capability],
        total_memory=80 * 2**30,
        warp_size=32,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        shared_memory_per_block=48 * 1024,
        shared_memory_per_block_optin=227 * 1024,
        shared_memory_per_multiprocessor=228 * 1024,
        L2_cache_size=50 * 2**20,
        clock_rate=1_755_000,
        memory_clock_rate=2_619_000,
        memory_bus_width=5120,
        is_integrated=0,
        gcnArchName="",
    )


@contextlib.contextmanager
def _device(capability: int) -> Iterator[None]:
    """Answers for everything that Inductor and Triton ask about the device."""
    import triton.runtime
    from torch._dynamo.device_interface import CudaInterface
    from triton.backends.compiler import GPUTarget

    torch._C._ensureCUDADeviceGuardSet()
    properties = _properties(capability)
    pair = divmod(capability, 10)
    seed = torch.zeros(16, dtype=torch.uint8)
    asked = {
        torch.cuda: {
            "is_available": True,
            "device_count": 1,
            "current_device": 0,
            "get_device_properties": properties,
            "get_device_capability": pair,
            "get_device_name": properties.name,
            "is_bf16_supported": True,
            "is_current_stream_capturing": False,
            "get_rng_state": seed,
            "set_rng_state": None,
            "synchronize": None,
            "_lazy_init": None,
        },
        CudaInterface: {
            "is_available": True,
            "current_device": 0,
            "device_count": 1,
            "get_compute_capability": capability,
            "is_triton_capable": True,
            "is_bf16_supported": True,
            "raise_if_triton_unavailable": None,
        },
        CudaInterface.Worker: {"get_device_properties": properties, "current_device": 0},
    }
    driver = types.SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32), get_current_device=lambda: 0
    )
    with contextlib.ExitStack() as stack:
        for owner, answers in asked.items():
            for name, answer in answers.items():
                stack.enter_context(mock.patch.object(owner, name, return_value=answer))
        replaced = [
            mock.patch.object(
                CudaInterface, "get_device_properties", staticmethod(lambda _=None: properties), create=True
            ),
            mock.patch.object(CudaInterface, "get_raw_stream", return_value=0),
            mock.patch.object(torch.cuda, "device", _NoGuard),
            mock.patch.object(torch.cuda, "_DeviceGuard", _NoGuard),
            mock.patch("torch._subclasses.fake_tensor.init_gpu_context"),
            mock.patch("torch.utils._triton.triton_hash_with_backend", return_value="none"),
            mock.patch.object(type(triton.runtime.driver), "active", driver),
        ]
        for patch in replaced:
            stack.enter_context(patch)
        if hasattr(has_triton, "cache_clear"):
            has_triton.cache_clear()  # asked for the CPU before
        yield

"""Versions, devices, and what works here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import torch

from tract_fx import compat
from tract_fx.environment import environment
from tract_fx.ops.gpu.launch import PRODUCTS, can_import_triton, is_triton_usable
from tract_fx.tools.doctor.elsewhere import StepElsewhere
from tract_fx.tools.doctor.private_names import check_private_names
from tract_fx.tools.doctor.result import Check, Checkup, State, versions
from tract_fx.tools.doctor.self_check import SelfCheck, self_check

__all__ = ["checkup"]

REPORT = "Please report this, with the output of tract-fx doctor --json."


def checkup(on_cpu: StepElsewhere) -> Checkup:
    """Look at this machine; takes some seconds, most of them for importing PyTorch and compiling a network of two layers.

    Args:
        on_cpu: the step with generated code on the CPU, which runs already.
    """
    devices = _devices_with_code()
    if "cpu" not in devices:
        on_cpu.stop()
    # They run beside the rest.
    steps = [on_cpu if device == "cpu" else StepElsewhere("inductor", device) for device in devices]
    checks = (
        *check_private_names(),
        *(_code_generation(), _kernels(), _cache(), _entry_point()),
        _step("a step without generated code", lambda: self_check("aot_eager")),
        *(_step(f"a step with Inductor on {step.device}", step.result) for step in steps),
    )
    return Checkup(versions(), tuple(_devices()), checks)


def _devices_with_code() -> tuple[str, ...]:
    on_cpu = ("cpu",) if compat.can_generate_code("cpu") else ()
    return (*on_cpu, "cuda") if torch.cuda.is_available() else on_cpu


def _devices() -> Iterator[str]:
    record = environment()
    yield f"cpu: {record['cpu']}, {_counted(record['cpu_count'], 'core')}, {_counted(torch.get_num_threads(), 'thread')}"
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        yield (
            f"cuda:{index}: {of.name}, compute capability {of.major}.{of.minor}, {of.total_memory / 2**30:.0f} GiB, "
            f"{of.multi_processor_count} multiprocessors"
        )


def _counted(number: int | str | None, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _code_generation() -> Check:
    compiler = compat.cpp_compiler()
    if compiler is not None:
        return Check("C++ compiler", State.WORKS, f"{compiler}: Inductor generates code for the CPU")
    advice = 'Install g++ or clang++, or use tract_backend(inner="aot_eager"), which generates no code.'
    return Check("C++ compiler", State.LIMITED, "none: Inductor cannot generate code for the CPU", advice)


def _kernels() -> Check:
    name = "Triton kernels"
    if not torch.cuda.is_available():
        return Check(name, State.LIMITED, "no CUDA device: the covariance comes from PyTorch's own operators")
    usable = [
        str(dtype).removeprefix("torch.")
        for dtype in PRODUCTS
        if is_triton_usable(torch.empty(1, 1, dtype=dtype, device="cuda"))
    ]
    if usable:
        return Check(name, State.WORKS, f"for {', '.join(usable)}")
    why = "they need compute capability 8.0" if can_import_triton() else "Triton cannot be imported"
    return Check(name, State.LIMITED, f"{why}: the covariance comes from PyTorch's own operators")


def _cache() -> Check:
    try:
        folder = Path(compat.cache_dir())  # makes it
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        advice = (
            "Set TORCHINDUCTOR_CACHE_DIR to a folder that can be written: Inductor puts the code there that it makes."
        )
        return Check("cache folder", State.BROKEN, f"cannot be written: {error}", advice)
    return Check("cache folder", State.WORKS, str(folder))


def _entry_point() -> Check:
    name = 'torch.compile(backend="tract")'
    if any(entry.name == "tract" for entry in metadata.entry_points(group="torch_dynamo_backends")):
        return Check(name, State.WORKS, "registered")
    advice = (
        "Install the package (pip install -e .), or give torch.compile the object that tract_fx.tract_backend() makes."
    )
    return Check(name, State.LIMITED, "not registered: this is a checkout that is not installed", advice)


def _step(name: str, run: Callable[[], SelfCheck]) -> Check:
    try:
        result = run()
    except Exception as error:  # whatever a compiler may raise: that it does is the finding
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return Check(name, State.BROKEN, f"{type(error).__name__}: {lines[-1] if lines else 'no message'}", REPORT)
    return Check(name, State.WORKS, str(result)) if result.is_right else Check(name, State.BROKEN, str(result), REPORT)

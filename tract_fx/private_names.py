"""The private names of PyTorch that :mod:`tract_fx.compat` uses, and a check that the installed release has them.

A release of PyTorch may drop or change a private name without notice. ``compat`` checks those that are loaded with it when
it is imported, and the others, whose modules take seconds to import, before it uses them.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Iterable, Iterator

import torch

from tract_fx.errors import UnsupportedTorchError

__all__ = ["PRIVATE_NAMES", "SUPPORTED", "PrivateName", "problems", "require"]

SUPPORTED = "2.11 to 2.15"


@dataclasses.dataclass(frozen=True)
class PrivateName:
    """One name, and how it is called.

    Attributes:
        module: in which it is.
        name: of the attribute, with dots for attributes of attributes.
        positional: number of positional arguments of the call; None for what is not called.
        keywords: names of the keyword arguments of the call.
        deferred: whether the module is imported only when the name is needed.
        distributed: whether only builds with ``torch.distributed`` have it.
    """

    module: str
    name: str
    positional: int | None = None
    keywords: tuple[str, ...] = ()
    deferred: bool = False
    distributed: bool = False

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def problem(self) -> str | None:
        """What is wrong with the name in the installed release, as the end of a sentence; None if nothing is."""
        try:
            found: object = importlib.import_module(self.module)
            for part in self.name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError):
            return f"has no {self}"
        if self.positional is None:
            return None
        try:
            signature = inspect.signature(found)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # a function of C++
            return None
        try:
            signature.bind(*range(self.positional), **dict.fromkeys(self.keywords))
        except TypeError as error:
            return f"has another signature of {self} ({error})"
        return None


def _names(module: str, names: str, *, deferred: bool = False, distributed: bool = False) -> Iterator[PrivateName]:
    """Names that are not called, separated by spaces."""
    for name in names.split():
        yield PrivateName(module, name, deferred=deferred, distributed=distributed)


_DESCRIPTORS = (
    "AOTInput BufferAOTInput GradAOTOutput PlainAOTInput SubclassGetAttrAOTInput TangentAOTInput ViewBaseAOTInput"
)
_FRAMES = "_debug_get_cache_entry_list _FrameAction _FrameExecStrategy reset_code set_code_exec_strategy"

PRIVATE_NAMES: tuple[PrivateName, ...] = (
    PrivateName("torch", "_TorchCompileInductorWrapper", 3),
    PrivateName("torch", "_TorchCompileWrapper", 4),
    *_names(
        "torch", "_C._current_graph_task_id _C._len_torch_dispatch_stack Tensor._backward_hooks UntypedStorage._cdata"
    ),
    *_names("torch._C._dynamo.eval_frame", _FRAMES),
    *_names("torch._C._functorch", "get_unwrapped is_functorch_wrapped_tensor"),
    *_names("torch.autograd", "Variable._execution_engine.queue_callback"),
    *_names("torch._dynamo.config", "patch recompile_limit suppress_errors"),
    *_names("torch._dynamo.convert_frame", "input_codes"),
    *_names("torch._dynamo.eval_frame", "OptimizedModule"),
    PrivateName("torch._dynamo.eval_frame", "innermost_backend", 1),
    *_names("torch._dynamo.exc", "BackendCompilerFailed"),
    PrivateName("torch._dynamo.guards", "DeletedGuardManagerWrapper", 1),
    PrivateName("torch._dynamo.guards", "get_verbose_code_parts", 2),
    *_names("torch._dynamo.pgo", "_CODE_STATE"),
    PrivateName("torch._dynamo.source", "ConstantSource", 1),
    PrivateName("torch._dynamo.symbolic_convert", "InstructionTranslator.current_tx", 0),
    *_names("torch._dynamo.utils", "counters"),
    *_names("torch._functorch._aot_autograd.descriptors", _DESCRIPTORS),
    *_names("torch._functorch.eager_transforms", "_autograd_grad"),
    PrivateName("torch._functorch.partitioners", "min_cut_rematerialization_partition", 2, ("num_fwd_outputs",)),
    PrivateName("torch._guards", "Guard", 2),
    PrivateName("torch._guards", "TracingContext.try_get", 0),
    *_names("torch._guards", "detect_fake_mode"),
    PrivateName("torch._inductor", "list_mode_options", 0),
    *_names("torch._inductor.config", "joint_custom_pre_pass get_config_copy"),
    PrivateName("torch._inductor.cpp_builder", "get_cpp_compiler", 0),
    *_names("torch._inductor.custom_graph_pass", "CustomGraphPass"),
    *_names("torch._inductor.exc", "InvalidCxxCompiler"),
    PrivateName("torch._inductor.runtime.cache_dir_utils", "cache_dir", 0),
    PrivateName("torch._logging", "trace_structured", 1, ("metadata_fn", "payload_fn")),
    *_names("torch._ops", "HigherOrderOperator OpOverload"),
    *_names("torch._subclasses.fake_tensor", "FakeCopyMode FakeTensor FakeTensorMode"),
    PrivateName("torch.fx.traceback", "preserve_node_meta", 0, ("enable",)),
    PrivateName("torch.multiprocessing.reductions", "StorageWeakRef", 1),
    *_names("torch.utils._pytree", "tree_leaves tree_map tree_map_only"),
    PrivateName("torch.utils._python_dispatch", "_disable_current_modes", 0),
    *_names("torch", "ops._c10d_functional", distributed=True),
    *_names("torch._C._distributed_c10d", "_resolve_process_group", distributed=True),
    *_names("torch.distributed.distributed_c10d", "_world", distributed=True),
    *_names("torch.distributed.fsdp", "FSDPModule._get_fsdp_state", distributed=True),
    PrivateName("torch.nn.parallel", "DistributedDataParallel._get_active_ddp_module", 0, distributed=True),
    *_names("torch._dynamo.backends.common", "aot_autograd", deferred=True),
    PrivateName("torch._dynamo.backends.debugging", "boxed_nop", 2, deferred=True),
    PrivateName("torch._inductor.compile_fx", "compile_fx", 2, ("config_patches",), deferred=True),
    PrivateName("torch._inductor.cudagraph_trees", "reset_cudagraph_trees", 0, deferred=True),
    PrivateName("torch._inductor.decomposition", "select_decomp_table", 0, deferred=True),
    *_names("torch._inductor.lowering", "lowerings", deferred=True),
)


def problems(names: Iterable[PrivateName] = PRIVATE_NAMES) -> dict[PrivateName, str]:
    """The names that the installed release does not have, or not as they are called, each with the reason."""
    here = [name for name in names if not name.distributed or torch.distributed.is_available()]
    return {name: problem for name in here if (problem := name.problem()) is not None}


def require(names: Iterable[PrivateName]) -> None:
    """Check names before they are used.

    Raises:
        UnsupportedTorchError: naming the installed release, the supported ones, and what is missing.
    """
    if found := problems(names):
        raise UnsupportedTorchError(
            f"tract-fx supports torch {SUPPORTED}, and torch {torch.__version__} is installed, which "
            f"{' and '.join(found.values())}."
        )

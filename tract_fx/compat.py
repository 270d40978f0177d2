"""Every private name of PyTorch that the project uses, in one place.

Each was read in the sources of torch 2.11.0 and 2.15.0. When a release moves one, this is the file to change, together
with the table in :mod:`tract_fx.private_names`, which is checked before anything is imported here.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from types import FrameType, FunctionType
from typing import Any, NamedTuple, NoReturn

import sympy
import torch

from tract_fx.private_names import PRIVATE_NAMES, require

require(name for name in PRIVATE_NAMES if not name.deferred)

# ruff: noqa: E402 - the names have been checked first
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.guards import get_verbose_code_parts
from torch._dynamo.source import ConstantSource
from torch._functorch import eager_transforms
from torch._functorch._aot_autograd.descriptors import (
    AOTInput,
    BufferAOTInput,
    GradAOTOutput,
    PlainAOTInput,
    SubclassGetAttrAOTInput,
    TangentAOTInput,
    ViewBaseAOTInput,
)
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._guards import Guard, TracingContext, detect_fake_mode
from torch._inductor import config as inductor_config
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.runtime.cache_dir_utils import cache_dir
from torch._logging import trace_structured
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

__all__ = [
    "FUNCTIONAL_COLLECTIVES",
    "FUNCTORCH_GRAD",
    "AOTInput",
    "BackendCompilerFailed",
    "BufferAOTInput",
    "CustomGraphPass",
    "FakeCopyMode",
    "FakeTensor",
    "FakeTensorMode",
    "GivenBackend",
    "GradAOTOutput",
    "HigherOrderOperator",
    "OpOverload",
    "PlainAOTInput",
    "StorageWeakRef",
    "SubclassGetAttrAOTInput",
    "TangentAOTInput",
    "ViewBaseAOTInput",
    "active_engine",
    "active_stage",
    "add_guard",
    "aot_eager",
    "at_end_of_backward_pass",
    "break_reason",
    "break_reasons",
    "cache_dir",
    "can_generate_code",
    "compile_fx",
    "compiled_frame_locals",
    "compiled_module",
    "cpp_compiler",
    "current_backward_pass",
    "current_joint_pass",
    "detect_fake_mode",
    "distributed_parts",
    "engine_groups",
    "given_backend",
    "group_named",
    "group_store",
    "group_timeout",
    "inductor_decompositions",
    "inductor_patches",
    "instead_of_inductor",
    "is_compiled_function",
    "is_dispatch_mode_active",
    "is_distributed_tensor",
    "is_fake",
    "is_function_of_user",
    "is_in_backward_pass",
    "is_in_later_stage",
    "is_joining",
    "is_static_input",
    "is_wrapped",
    "isolated_dynamo_state",
    "joint_graph_only",
    "lift_as_input",
    "list_modes",
    "model_given_to_compile",
    "preserving_no_metadata",
    "pytree",
    "quantization_mappings",
    "real_scalar",
    "real_value",
    "register_first_hook",
    "requires_grad",
    "reset_cudagraphs",
    "size_expression",
    "size_hints",
    "source_name",
    "stack",
    "storage_address",
    "storage_of",
    "trace_artifact",
]

# Where graph breaks make one frame of every layer, or images come in many sizes, each is a recompile; all are to be seen.
APART_RECOMPILE_LIMIT = 256

# Collectives that a graph can hold.
FUNCTIONAL_COLLECTIVES = torch.ops._c10d_functional

# What Dynamo puts into a graph for ``torch.func.grad`` and its relatives.
FUNCTORCH_GRAD = eager_transforms._autograd_grad


def _require_deferred(*modules: str) -> None:
    """Check the names of modules that are imported only when they are needed."""
    require(name for name in PRIVATE_NAMES if name.deferred and name.module in modules)


def source_name(placeholder: torch.fx.Node) -> str | None:
    """Python expression of a Dynamo placeholder, such as ``L['self']._modules['conv1']._parameters['weight']``."""
    source = getattr(placeholder, "_dynamo_source", None)
    if source is None:  # a sub-graph cut out by DDPOptimizer
        return None
    name = source.name
    return name() if callable(name) else name


def is_static_input(placeholder: torch.fx.Node) -> bool:
    """Whether Dynamo marks the input as one that keeps its address: parameters, buffers, tensors held by a module."""
    return (placeholder.meta.get("tensor_dict") or {}).get("_dynamo_static_input_type") is not None


def real_value(placeholder: torch.fx.Node) -> torch.Tensor | None:
    """The tensor that a Dynamo placeholder stands for in the call that is being compiled; None where it is not known."""
    argument = placeholder.meta.get("grapharg")
    if argument is None or getattr(argument, "source", None) is None or argument.pass_arg_as_tensor:
        return None
    try:
        value = argument.example
    except AssertionError:  # it is held weakly
        return None
    return value if isinstance(value, torch.Tensor) else None


def add_guard(placeholder: torch.fx.Node, holds: Callable[[Any], bool], reason: str) -> None:
    """Make Dynamo run the code that it is compiling only where ``holds`` is true of the input.

    ``reason`` appears in its logs.
    """

    def create(builder: Any, guard: Guard) -> None:
        parts = get_verbose_code_parts(reason, guard)
        builder.get_guard_manager(guard).add_lambda_guard(holds, parts, guard.user_stack)

    context = TracingContext.try_get()
    if context is not None:
        context.guards_context.dynamo_guards.add(Guard(placeholder.meta["grapharg"].source, create))


def storage_of(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    """The storage of a tensor; None where it has none of its own."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return None
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # a sparse tensor
        return None


def storage_address(storage: torch.UntypedStorage) -> int:
    """Where a storage is, which no other one has while it lives."""
    return storage._cdata


def is_in_backward_pass() -> bool:
    """Whether autograd is running a backward pass in this thread."""
    return current_backward_pass() != -1


def current_backward_pass() -> int:
    """Number of the backward pass that autograd is running in this thread; -1 outside of one."""
    return torch._C._current_graph_task_id()


def at_end_of_backward_pass(call: Callable[[], None]) -> None:
    """Have ``call`` run when the backward pass of this thread ends; what it raises is raised by ``backward()``."""
    torch.autograd.Variable._execution_engine.queue_callback(call)


def stack() -> Iterator[FrameType]:
    """The frames of Python that are being executed in this thread, from the caller's outwards."""
    # From the caller and not from here: the frame of a generator hangs on its caller's only while it runs.
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def active_stage() -> Any:
    """The stage of ``torch.distributed.pipelining`` that is calling its module; None where there is none."""
    if "torch.distributed.pipelining" not in sys.modules:
        return None
    for frame in stack():
        owner = frame.f_locals.get("self")
        if any(base.__module__ == "torch.distributed.pipelining.stage" for base in type(owner).__mro__):
            return owner
    return None


def is_in_later_stage() -> bool:
    """Whether a stage of a pipeline other than the first is calling its module.

    It calls it with leaves that require grad, into which it has received what the stage before it computed.
    """
    stage = active_stage()
    return stage is not None and not stage.is_first


def register_first_hook(tensor: torch.Tensor, hook: Callable[[torch.Tensor], None]) -> None:
    """Register a hook on the gradient of a leaf that runs before those of the user, which may change the gradient."""
    tensor.register_hook(hook)
    hooks: Any = tensor._backward_hooks
    *others, own = hooks.items()
    hooks.clear()  # autograd runs them in the order of insertion
    hooks.update([own, *others])


def is_compiled_function(node: Any) -> bool:
    """Whether a node of an autograd history is the backward pass of a graph that AOTAutograd compiled."""
    return isinstance(node, torch.autograd.function.BackwardCFunction) and "CompiledFunction" in node.name()


def is_function_of_user(node: Any) -> bool:
    """Whether a node of an autograd history belongs to a ``torch.autograd.Function`` that AOTAutograd did not make."""
    return isinstance(node, torch.autograd.function.BackwardCFunction) and not is_compiled_function(node)


def lift_as_input(gm: torch.fx.GraphModule, name: str, tensor: torch.Tensor) -> bool:
    """Make ``tensor`` a further input of a Dynamo graph; AOTAutograd describes it as ``BufferAOTInput(name)``.

    A registered buffer of the graph module is lifted like any other, provided that its source is known.

    Returns:
        Whether it could be done; False where the graph module was not made by Dynamo itself.
    """
    sources = getattr(gm, "_param_name_to_source", None)
    if sources is None:
        return False
    gm.register_buffer(name, tensor, persistent=False)
    # DDPOptimizer shares one dictionary between the graphs it splits: copy, never change it in place.
    gm._param_name_to_source = {**sources, name: ConstantSource(name)}
    return True


def compiled_frame_locals() -> dict[str, Any]:
    """Local variables of the Python frame that Dynamo is compiling; empty outside of a compilation."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        return dict(InstructionTranslator.current_tx().output.local_scope)
    except AttributeError:
        return {}


def compiled_module(value: object) -> torch.nn.Module | None:
    """The model inside ``torch.compile(model)``, or ``value`` itself after ``value.compile()``; None otherwise."""
    from torch._dynamo.eval_frame import OptimizedModule

    if isinstance(value, OptimizedModule):
        return value._orig_mod
    if isinstance(value, torch.nn.Module) and getattr(value, "_compiled_call_impl", None) is not None:
        return value
    return None


def model_given_to_compile() -> torch.nn.Module | None:
    """The module in the call of ``torch.compile`` that is under way; None outside of one, and for a function.

    ``module.compile()`` gives its own method ``_call_impl`` to ``torch.compile``.
    """
    # By its name: Lightning puts a function of its own in the place of torch.compile, which calls it.
    calls = (
        frame for frame in stack() if (frame.f_code.co_name, frame.f_globals.get("__name__")) == ("compile", "torch")
    )
    frame = next(calls, None)
    model = frame.f_locals.get("model") if frame is not None else None
    owner = getattr(model, "__self__", model)
    if not isinstance(owner, torch.nn.Module):
        return None
    return compiled_module(owner) or owner


class GivenBackend(NamedTuple):
    """What ``torch.compile`` was given.

    Attributes:
        owner: an object that lives as long as what was compiled.
        function: the backend; for a name, what is registered under it.
        arguments: ``mode`` and ``options``, where they were given.
    """

    owner: object
    function: Callable[..., Any]
    arguments: dict[str, Any]


def given_backend(value: object) -> GivenBackend | None:
    """The backend of what ``torch.compile`` returned; None for anything else, and for Inductor."""
    from torch._dynamo.eval_frame import OptimizedModule, innermost_backend

    if isinstance(value, OptimizedModule):
        context = value.dynamo_ctx
    elif isinstance(value, FunctionType) and "get_compiler_config" in vars(value):
        # A function that returns an attribute of the context, and the only way from a compiled function to it.
        (cell,) = vars(value)["get_compiler_config"].__closure__
        context = cell.cell_contents
    else:
        return None
    wrapper = innermost_backend(getattr(context, "callback", None))
    if not isinstance(wrapper, torch._TorchCompileWrapper):
        return None
    return GivenBackend(context, wrapper.compiler_fn, wrapper.kwargs)


_INSTEAD: ContextVar[Callable[..., Any] | None] = ContextVar("backend in the place of Inductor", default=None)


@contextlib.contextmanager
def instead_of_inductor(backend: Callable[..., Any] | None) -> Iterator[None]:
    """``torch.compile`` uses ``backend`` where Inductor was asked for, in this thread and this asynchronous task."""
    wrapper: Any = torch._TorchCompileInductorWrapper
    wrapper.__new__ = staticmethod(_wrapper_in_context)  # looks at the context: elsewhere nothing changes
    token = _INSTEAD.set(backend)
    try:
        yield
    finally:
        _INSTEAD.reset(token)


def _wrapper_in_context(cls: type, *arguments: Any, **keywords: Any) -> Any:
    """What ``torch.compile`` makes of ``backend="inductor"``."""
    backend = _INSTEAD.get()
    # The subclass compiles ahead of time; a copy or a pickle is made without arguments.
    if backend is None or cls is not torch._TorchCompileInductorWrapper or not (arguments or keywords):
        return object.__new__(cls)
    return torch._TorchCompileWrapper(backend, *arguments, **keywords)


def list_modes() -> list[str]:
    """Names that ``torch.compile(mode=...)`` accepts."""
    from torch._inductor import list_mode_options

    return list(list_mode_options())


def inductor_patches(mode: str | None, options: dict[str, Any] | None) -> dict[str, Any]:
    """Inductor configuration that ``torch.compile(mode=..., options=...)`` stands for.

    Raises:
        RuntimeError: for an unknown mode or option, or an option of the wrong type.
    """
    with instead_of_inductor(None):
        return dict(torch._TorchCompileInductorWrapper(mode, options, None).config)


def current_joint_pass() -> Any:
    """What the user has set as ``torch._inductor.config.joint_custom_pre_pass``."""
    return inductor_config.joint_custom_pre_pass


def inductor_decompositions() -> dict[Any, Callable[..., Any]]:
    """The decompositions that Inductor gives to AOTAutograd under the current configuration."""
    _require_deferred("torch._inductor.lowering", "torch._inductor.decomposition")
    from torch._inductor import lowering  # noqa: F401 - some decompositions look into it
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def compile_fx(gm: torch.fx.GraphModule, example_inputs: Sequence[Any], patches: dict[str, Any]) -> Callable[..., Any]:
    """Compile a Dynamo graph with Inductor under ``patches`` of its configuration."""
    _require_deferred("torch._inductor.compile_fx")
    from torch._inductor.compile_fx import compile_fx as inductor_compile_fx

    return inductor_compile_fx(gm, example_inputs, config_patches=patches)


def aot_eager(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    joint_pass: Callable[[torch.fx.Graph], None],
    decompositions: dict[Any, Callable[..., Any]] | None = None,
) -> Callable[..., Any]:
    """``backend="aot_eager"`` with ``joint_pass`` run on the joint graph before it is partitioned.

    Like Inductor's own, the pass also sees graphs that compute no gradients.
    """
    _require_deferred("torch._dynamo.backends.common", "torch._dynamo.backends.debugging")
    from torch._dynamo.backends.common import aot_autograd
    from torch._dynamo.backends.debugging import boxed_nop

    def partition(joint_module: torch.fx.GraphModule, joint_inputs: Any, **kwargs: Any) -> Any:
        joint_pass(joint_module.graph)
        joint_module.recompile()
        return min_cut_rematerialization_partition(joint_module, joint_inputs, **kwargs)

    def infer(module: torch.fx.GraphModule, inputs: Any) -> Any:
        joint_pass(module.graph)
        module.recompile()
        return boxed_nop(module, inputs)

    return aot_autograd(
        fw_compiler=boxed_nop,
        bw_compiler=boxed_nop,
        inference_compiler=infer,
        partition_fn=partition,
        decompositions=decompositions,
        keep_inference_input_mutations=True,
    )(gm, example_inputs)


def trace_artifact(name: str, encoding: str, payload: Callable[[], Any]) -> None:
    """Add a file to the record that ``TORCH_TRACE`` keeps of the compilation under way; ``tlparse`` shows it.

    Args:
        name: of the file, without a suffix.
        encoding: ``"string"`` or ``"json"``.
        payload: makes the content; called only when a record is kept.
    """
    trace_structured("artifact", metadata_fn=lambda: {"name": name, "encoding": encoding}, payload_fn=payload)


def joint_graph_only(
    gm: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    joint_pass: Callable[[torch.fx.GraphModule], None],
    decompositions: dict[Any, Callable[..., Any]] | None = None,
) -> None:
    """Trace the joint graph, or the graph itself where there are no gradients, give it to ``joint_pass`` and stop there."""
    _require_deferred("torch._dynamo.backends.common", "torch._dynamo.backends.debugging")
    from torch._dynamo.backends.common import aot_autograd
    from torch._dynamo.backends.debugging import boxed_nop

    def stop(module: torch.fx.GraphModule, *_: Any, **__: Any) -> NoReturn:
        joint_pass(module)
        raise _CapturedError

    with contextlib.suppress(_CapturedError):
        aot_autograd(
            fw_compiler=boxed_nop,
            inference_compiler=stop,
            partition_fn=stop,
            decompositions=decompositions,
            keep_inference_input_mutations=True,
        )(gm, example_inputs)


class _CapturedError(Exception):
    """Ends a compilation that has served its purpose."""


def break_reason(gm: torch.fx.GraphModule) -> str | None:
    """Why Dynamo ended a graph before its function returned; None where it did not."""
    reason = getattr(gm, "compile_subgraph_reason", None)
    return reason.reason if reason is not None and reason.graph_break else None


def break_reasons() -> tuple[str, ...]:
    """Everything that Dynamo could not trace since its counters were cleared, whether a graph ended there or none began."""
    from torch._dynamo.utils import counters

    return tuple(dict.fromkeys((*counters["graph_break"], *counters["unimplemented"])))


@contextlib.contextmanager
def isolated_dynamo_state() -> Iterator[None]:
    """What Dynamo compiles or gives up on inside is forgotten afterwards, and nothing else is.

    Compiled code, and the decision to leave a function alone, hang on its code object, which all instances of a class
    share. Code that had no entries before is reset; elsewhere the new entries are invalidated. Those stay in the list, but
    match nothing and do not count as recompilations. The sizes by which Dynamo decides what becomes dynamic, and its
    counters, are restored. Inside, errors are raised, and the recompile limit is out of reach.
    """
    from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list as entries
    from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, reset_code, set_code_exec_strategy
    from torch._dynamo import pgo
    from torch._dynamo.convert_frame import input_codes
    from torch._dynamo.utils import counters

    before: dict[Any, list[Any]] = {}

    def remember(code: Any) -> None:  # called for every frame that Dynamo tries to compile, before it does
        if code not in before:
            before[code] = entries(code)
        type(input_codes).add(input_codes, code)

    input_codes.add = remember
    sizes, counted = copy.deepcopy(pgo._CODE_STATE), copy.deepcopy(counters)
    counters.clear()
    try:
        with torch._dynamo.config.patch(recompile_limit=APART_RECOMPILE_LIMIT, suppress_errors=False):
            yield
    finally:
        del input_codes.add
        for code, known in before.items():
            if not known:
                reset_code(code)
                continue
            set_code_exec_strategy(code, _FrameExecStrategy(_FrameAction.DEFAULT, _FrameAction.DEFAULT))
            for entry in entries(code):
                if entry not in known:
                    _invalidate(entry)
        pgo._CODE_STATE = sizes
        counters.clear()
        counters.update(counted)


def _invalidate(entry: Any) -> None:
    from torch._dynamo.guards import DeletedGuardManagerWrapper

    gone = DeletedGuardManagerWrapper("made only to be looked at")
    # Dynamo counts an entry towards its recompile limit when the objects it was made for are those of the new call.
    gone.id_matched_objs = {"": weakref.ref(_invalidate)}
    entry.guard_manager.extra_state.invalidate(entry, gone)


def real_scalar(value: float, device: torch.device) -> torch.Tensor:
    """A float64 tensor with one element that holds memory, also while fake tensors are being traced."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        return torch.full((), value, dtype=torch.float64, device=device)


def cpp_compiler() -> str | None:
    """The C++ compiler that Inductor would call; None when it finds none."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        return None


def can_generate_code(device: torch.device | str) -> bool:
    """Whether Inductor can compile for a device: on the CPU it needs a C++ compiler."""
    return torch.device(device).type != "cpu" or cpp_compiler() is not None


def reset_cudagraphs() -> None:
    """Forget recorded CUDA graphs, as Inductor's own backend does when Dynamo is reset."""
    if torch.cuda.is_available():
        _require_deferred("torch._inductor.cudagraph_trees")
        from torch._inductor.cudagraph_trees import reset_cudagraph_trees

        reset_cudagraph_trees()


@contextlib.contextmanager
def preserving_no_metadata() -> Iterator[None]:
    """Nodes traced inside do not take over stack traces or sequence numbers of a trace that is under way."""
    with torch.fx.traceback.preserve_node_meta(enable=False):
        yield


def group_named(name: str) -> Any:
    """The process group that is registered under a name.

    Raises:
        RuntimeError: when there is none.
    """
    return torch._C._distributed_c10d._resolve_process_group(name)


def group_store(group: Any, prefix: str) -> Any:
    """The key-value store of a process group, with a prefix before every key."""
    from torch.distributed import PrefixStore, distributed_c10d

    return PrefixStore(prefix, distributed_c10d._world.pg_map[group][1])


def group_timeout(group: Any) -> float:
    """Seconds that a collective of the group may take."""
    try:
        timeout = group._get_backend(group._device_types[0]).options._timeout
    except (AttributeError, RuntimeError):  # a backend without options, as those of third parties
        timeout = group_store(group, "").timeout
    return timeout.total_seconds()


def distributed_parts(value: Any) -> tuple[int, ...]:
    """Dimensions along which a DTensor is cut, -1 for parts of a sum; empty when every process has all of it."""
    if not is_distributed_tensor(value):
        return ()
    cuts = (placement for placement in value.placements if not placement.is_replicate())
    return tuple(sorted({getattr(placement, "dim", -1) for placement in cuts}))


def is_distributed_tensor(value: Any) -> bool:
    """Whether a value is a DTensor; the module that has them is imported by whoever makes one."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def requires_grad(tensor: torch.Tensor) -> bool:
    """Whether a tensor, or the one that the wrappers of ``torch.func`` hold, requires grad.

    Inside ``torch.vmap``, parameters that require grad outside of it are wrapped in tensors that do not.
    """
    functorch = torch._C._functorch
    while not tensor.requires_grad and functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor.requires_grad


def is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a wrapper of ``torch.func``, whose values cannot always be read."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def is_dispatch_mode_active() -> bool:
    """Whether anything records, counts or replaces the operators that run: a tracer, ``FlopCounterMode``, fake tensors."""
    return torch._C._len_torch_dispatch_stack() > 0


def quantization_mappings() -> dict[str, dict[Any, Any]]:
    """The tables in which ``torch.ao.quantization`` looks up modules by exact type; empty where there is none.

    Their keys here are ``"qat"`` for quantisation-aware training, and ``"static"`` and ``"dynamic"`` for inference.
    """
    try:
        from torch.ao.quantization import quantization_mappings as found
    except ImportError:
        return {}
    names = {
        "qat": "DEFAULT_QAT_MODULE_MAPPINGS",
        "static": "DEFAULT_STATIC_QUANT_MODULE_MAPPINGS",
        "dynamic": "DEFAULT_DYNAMIC_QUANT_MODULE_MAPPINGS",
    }
    return {key: getattr(found, name) for key, name in names.items() if hasattr(found, name)}


def is_fake(group: Any) -> bool:
    """Whether a process group only pretends that there are others, as simulations of large systems do."""
    return torch.distributed.get_backend(group) == "fake"


def is_joining(engine: torch.nn.Module) -> bool:
    """Whether a ``DistributedDataParallel`` module is inside of its ``join()``."""
    return engine._join_config.enable


def active_engine() -> torch.nn.Module | None:
    """The innermost module being called that shards or replicates: FSDP2's, or ``DistributedDataParallel``."""
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    for frame in stack():
        owner = frame.f_locals.get("self")
        if isinstance(owner, (FSDPModule, DistributedDataParallel)):
            return owner
    # In the frame that Dynamo compiles it is an argument, and no frame of Python's yet.
    owners = (getattr(value, "__self__", value) for value in compiled_frame_locals().values())
    inside = next((owner for owner in owners if isinstance(owner, FSDPModule)), None)
    return inside or DistributedDataParallel._get_active_ddp_module()


def engine_groups(engine: torch.nn.Module) -> tuple[Any, ...]:
    """The process groups over which an engine averages gradients, one after the other: two for HSDP.

    Raises:
        LookupError: when an FSDP2 module and those inside of it have no parameters.
    """
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(engine, FSDPModule):
        return (engine.process_group,)
    for module in engine.modules():
        if not isinstance(module, FSDPModule):
            continue
        state = module._get_fsdp_state()
        several = getattr(state, "_fsdp_param_groups", None)  # torch 2.11 has at most one
        for found in several if several is not None else filter(None, (state._fsdp_param_group,)):
            info = found.mesh_info
            names = ("shard_process_group", "replicate_process_group")
            return tuple(getattr(info, name) for name in names if hasattr(info, name))
    raise LookupError("no parameters")


def size_expression(size: torch.SymInt) -> sympy.Expr:
    """A symbolic size as an expression in the symbols of its graph."""
    return size.node.expr


def size_hints(size: torch.SymInt) -> dict[sympy.Symbol, int]:
    """What the symbols of a size were in the example; one that depends on data (of ``nonzero``) is left out."""
    known = size.node.shape_env.backed_var_to_val
    return {symbol: int(known[symbol]) for symbol in size.node.expr.free_symbols if symbol in known}

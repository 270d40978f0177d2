"""Which tests are left to ``.ci/run``: the table of the files that belong to the slow set, whole or in part.

``python -m pytest`` runs the fast set, ``python -m pytest -m slow`` the rest. A test is marked ``slow`` where it stands,
with ``@pytest.mark.slow`` or ``pytestmark``, or here: by file, what is slow of it, and which of that is fast all the same.
Patterns are those of ``fnmatch`` for what follows the file in a test's name; ``[`` is an ordinary character.
"""

from __future__ import annotations

import dataclasses
from fnmatch import fnmatchcase

import pytest


@dataclasses.dataclass(frozen=True)
class Split:
    """Patterns of the slow tests of a file, and the exceptions from them."""

    slow: tuple[str, ...] = ("*",)
    fast: tuple[str, ...] = ()

    def is_slow(self, name: str) -> bool:
        """Whether a test of the file, named as behind ``::``, is left to the slow set."""
        return _matches(name, self.slow) and not _matches(name, self.fast)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


# Below `tests/`. What is fast keeps each promise of the table of what works, and each path through passes and operators.
SPLITS = {
    "benchmarks/convergence/test_experiments.py": Split(),
    "benchmarks/convergence/test_images.py": Split(slow=("test_widths_*", "test_every_architecture_*")),
    "benchmarks/convergence/test_training.py": Split(
        slow=(
            "test_an_interrupted_run_*",
            "test_parts_with_one_covariance_*",
            "test_the_pass_is_off_*",
            "test_both_sides_*[vit]",
        ),
    ),
    "benchmarks/test_throughput.py": Split(slow=("test_every_side_is_measured_*",)),
    "distributed/test_disagreement.py": Split(slow=("test_one_rank_skips_a_backward",)),
    "distributed/test_eager.py": Split(slow=("test_every_engine*",), fast=("test_every_engine[ddp*",)),
    "distributed/test_exact.py": Split(
        fast=(
            "test_every_engine[ddp inside]",
            "test_every_engine[fsdp root]",
            "test_every_layer[linear, fewer*",
            "test_batches_of_different_sizes[the last*",
            "test_under_autocast",
        )
    ),
    "distributed/test_groups.py": Split(slow=("test_group_and_size_are_part_of_the_key",)),
    "distributed/test_overlap.py": Split(slow=("test_generated_code_has_that_order",)),
    "distributed/test_processes.py": Split(slow=("test_the_watchdog_*",)),
    "examples/test_examples.py": Split(slow=("test_trains_with_tract_*[lightning_*]",)),
    "examples/test_timm.py": Split(),
    "examples/test_torchrun.py": Split(),
    "fuzz/test_fuzz.py": Split(
        slow=("test_a_random_network[*", "test_a_random_network_through_generated_code*"),
        fast=tuple(f"test_a_random_network[{seed}]" for seed in (1, 4, 6, 7, 8, 9, 10)),
    ),
    "integration/test_caches.py": Split(
        fast=(
            "test_the_first_process_compiles",
            "test_the_second_process_hits_*[0.5]",
            "test_the_second_process_warns_*",
        )
    ),
    "integration/test_generated.py": Split(slow=("*_through_generated_code",)),
    "integration/test_gradients.py": Split(slow=("test_gradient_equals_reference_through_generated_code*",)),
    "integration/test_graphs.py": Split(
        slow=("test_*[inductor]", "test_graph_breaks*"),
        fast=tuple(f"test_graph_breaks[places{number}]" for number in (0, 1, 6)),
    ),
    "integration/test_hostile.py": Split(slow=("test_*inductor*",)),
    "integration/test_lam.py": Split(slow=("test_*[inductor]",)),
    "integration/test_precision.py": Split(slow=("test_*inductor*",)),
    "integration/test_photographs.py": Split(
        fast=(
            "test_float32[3x3-*",
            "test_float32[16x16/16-0..255-*",
            "test_float32[linear-standardised-*",
            "test_autocast[7x7/2-*-random-dtype0]",
            "test_autocast[3x3-*-loss-dtype1]",
            "test_narrow_modules_*[4x4/4-*",
            "test_generated_code[3x3-dtype1]",
            "test_the_eager_wrapper[7x7/2-0..255-*",
        )
    ),
    "integration/test_official.py": Split(slow=("test_equals_the_authors_module*-0.05]",)),
    "integration/test_shapes.py": Split(
        slow=("test_rows_that_fall_below_*", "test_batch_one[*-inductor]", "test_batch_and_image_size[patches]")
    ),
    "integration/test_untouched.py": Split(slow=("test_*[attention-*]", "test_*[convnet-inductor]")),
    "integration/test_weights.py": Split(slow=("test_*_through_generated_code",)),
    "passes/test_batch.py": Split(slow=("test_*inductor]",)),
    "passes/test_transposed.py": Split(
        slow=("test_every_geometry*", "test_*inductor]"),
        fast=tuple(
            f"test_every_geometry[{name}]" for name in ("generator", "groups", "latent code", "signal without a batch")
        ),
    ),
    "tract_fx/compile/test_logs.py": Split(
        slow=("test_debug_folders_*", "test_one_line_for_each_graph_*", "test_a_miss_shows_*", "test_a_hit_*")
    ),
    "tract_fx/eager/test_compiled.py": Split(
        slow=("test_other_backends[*-inductor]", "test_other_backends[transposed-*]")
    ),
    "tract_fx/inspect/cost/test_flops.py": Split(slow=("test_a_dynamic_batch_*", "test_a_step_is_*[resnet]")),
    "tract_fx/inspect/drawing/test_neighbourhood.py": Split(
        slow=("test_edges_and_regions_*[autocast-*", "test_edges_and_regions_*[dynamic-*")
    ),
    "tract_fx/inspect/test_capture.py": Split(
        slow=("test_what_was_compiled_before*", "test_many_explanations_*", "test_sizes_that_were_explained_*")
    ),
    "tract_fx/inspect/views/test_page_browser.py": Split(
        slow=("test_in_a_notebook_*", "test_everything_is_there_without_scripts")
    ),
    "tract_fx/ops/test_gram.py": Split(
        slow=(
            "test_memory_does_not_grow_*[toeplitz-shape2-*",
            "test_memory_does_not_grow_*[toeplitz-shape7-*",
            "test_the_usual_blocks_*",
        ),
    ),
    "tract_fx/tools/demo/test_training.py": Split(slow=("test_same_start_and_same_batches_*",)),
    "tract_fx/ops/gpu/test_ahead_of_time.py": Split(
        slow=("test_a_configuration_*", "test_small_systems_*"),
        fast=(
            "test_a_configuration_*[80-dtype2-*0]",
            "test_a_configuration_*[90-dtype8-*0]",
            "test_small_systems_*[90-27]",
        ),
    ),
    "tract_fx/ops/gpu/test_kernels.py": Split(
        slow=(
            "test_the_kernels_in_the_interpreter*",
            "test_everything_works_without_triton",
            "test_triton_is_not_imported_before_*",
        )
    ),
    "tract_fx/probing/test_diagnosis.py": Split(
        slow=("test_nothing_is_said_of_ordinary_images*",),
        fast=("test_nothing_is_said_of_ordinary_images[standardised]",),
    ),
    "tract_fx/probing/views/test_figures.py": Split(slow=("test_every_layer_has_its_pictures",)),
    "tract_fx/test_backend.py": Split(
        slow=(
            "test_the_user_s_own_joint_pass_still_runs*",
            "test_evaluation_and_no_grad_*[inductor]",
            "test_modes_and_*",
            "test_a_model_without_a_layer_*[inductor]",
            "test_a_frozen_first_layer[inductor]",
        )
    ),
    "tract_fx/test_schedules.py": Split(slow=("test_*[inductor]",)),
    "tract_fx/test_packaging.py": Split(slow=("test_a_checkout_works_without_being_installed",)),
    "tract_fx/tools/demo/test_figures.py": Split(slow=("test_filters_are_drawn*",)),
    "tract_fx/tools/demo/test_command.py": Split(slow=("test_demo_on_the_digits_*",)),
    "tract_fx/tools/demo/test_session.py": Split(slow=("test_weights_depend_*", "test_sides_differ_in_nothing_*")),
    "tract_fx/tools/doctor/test_checkup.py": Split(slow=("test_a_step_in_another_process_*",)),
    "zoo/test_zoo.py": Split(
        fast=tuple(
            f"test_first_layers[{model}]"
            for model in (
                "timm:test_convnext",
                "timm:resnet18",
                "torchvision:r3d_18",
                "transformers:ViTMAEModel",
                "transformers:VideoMAEModel",
                "transformers:PatchTSTModel",
                "transformers:BertModel",
                "denoiser:ConditionalTransformer",
            )
        )
    ),
    "zoo/test_zoo_gradients.py": Split(),
}


def mark(item: pytest.Item) -> None:
    """Adds the mark if the table has it."""
    file, _, name = item.nodeid.removeprefix("tests/").partition("::")
    split = SPLITS.get(file)
    if split and split.is_slow(name):
        item.add_marker(pytest.mark.slow)

"""The pass that Inductor runs on every joint graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.fx import Graph, Node

from tract_fx.compat import CustomGraphPass
from tract_fx.distributed.agreement import Group
from tract_fx.passes import rewrite
from tract_fx.passes.alike import alike
from tract_fx.passes.first_layer import Findings, find
from tract_fx.passes.joint_graph import DEFAULT_NAMING, GraphInput, JointGraph
from tract_fx.passes.naming import Naming

__all__ = ["TractPass"]


class TractPass(CustomGraphPass):
    """Finds the first layers of a joint graph and rewrites them.

    Args:
        inputs: the inputs of the graph that Dynamo captured.
        layers: ``"first"``, or names of modules and parameters.
        lam: returns the node of a joint graph that holds ``lam``, a float64 tensor of no dimension.
        identity: distinguishes this pass from every other one in the keys of Inductor's and AOTAutograd's caches.
        on_findings: called with the findings before anything is changed; it may raise.
        decompositions: makes the table that the joint graph was traced with.
        before: passes of the user, run first.
        naming: how layers are called.
        process_groups: groups of processes that share covariances; empty when each process uses its own.
        watch: makes the context in which a graph that has matches is changed; it sees the graph before and after.
        relative: whether ``lam`` is in units of the mean eigenvalue of each covariance.
    """

    def __init__(
        self,
        inputs: Sequence[GraphInput],
        layers: str | Sequence[str],
        lam: Callable[[Graph], Node],
        identity: tuple[Any, ...],
        on_findings: Callable[[Findings], None],
        decompositions: Callable[[], rewrite.Decompositions] = dict,
        before: Sequence[Callable[[Graph], None]] = (),
        naming: Naming = DEFAULT_NAMING,
        process_groups: tuple[Group, ...] = (),
        watch: Callable[[Graph], AbstractContextManager[Any]] = nullcontext,
        *,
        relative: bool = False,
    ) -> None:
        self.inputs = tuple(inputs)
        self.layers = layers
        self.lam = lam
        self.identity = identity
        self.on_findings = on_findings
        self.decompositions = decompositions
        self.before = tuple(before)
        self.naming = naming
        self.process_groups = process_groups
        self.watch = watch
        self.relative = relative

    def __call__(self, graph: Graph) -> None:
        """Run the user's passes, then find and rewrite; a graph without a match is left as it is."""
        for user_pass in self.before:
            user_pass(graph)
        joint = JointGraph(graph, self.inputs, self.naming)
        findings = find(joint, self.layers, shared=bool(self.process_groups))
        self.on_findings(findings)
        if not findings.matches:
            return
        decompositions = self.decompositions()
        tangent = joint.first_tangent
        with self.watch(graph):
            lam = self.lam(graph)
            if self.process_groups:
                for match in findings.matches:
                    tangent = rewrite.apply_shared(
                        match, lam, self.process_groups, tangent, decompositions, relative=self.relative
                    )
            else:
                for group in alike(findings.matches):
                    rewrite.apply_alike(group, lam, decompositions, relative=self.relative)
            graph.lint()

    def uuid(self) -> tuple[Any, ...] | None:
        """Key of this pass in the caches, or None - no caching - when a pass of the user has none."""
        others = tuple(
            user_pass.uuid() if isinstance(user_pass, CustomGraphPass) else None for user_pass in self.before
        )
        return None if None in others else (*self.identity, *others)

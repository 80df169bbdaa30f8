"""A workflow and what it learned, on disk: JSON and safetensors.

Functions are code and are not stored: whoever loads a workflow gives them, by name, and nothing is
imported on a file's word. A policy is given as well, as it was built; its weights are read.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from distill.errors import WorkflowError
from distill.runs import new_folder, read_json, write_json
from distill.workflow.deciders import Policy, Threshold
from distill.workflow.graph import (
    BranchNode,
    EndNode,
    Function,
    LoopNode,
    Node,
    RouterNode,
    ToolNode,
    Workflow,
    branch,
    end,
    loop,
    router,
    tool,
)

_GRAPH, _WEIGHTS = "workflow.json", "deciders.safetensors"
_CODE = {"function", "loss", "takes", "optional", "threshold", "policy"}
_KINDS: dict[type[Node], str] = {
    ToolNode: "tool",
    BranchNode: "branch",
    RouterNode: "router",
    LoopNode: "loop",
    EndNode: "end",
}


def save_workflow(workflow: Workflow, folder: Path | str) -> None:
    """Write the folder, whole or not at all."""
    with new_folder(Path(folder)) as fresh:
        nodes = [_described(node) for node in workflow.nodes.values()]
        write_json(fresh / _GRAPH, {"inputs": list(workflow.inputs), "nodes": nodes})
        state = workflow.deciders.state_dict()
        save_file({n: t.detach().cpu().contiguous() for n, t in state.items()}, fresh / _WEIGHTS)


def load_workflow(
    folder: Path | str, functions: Mapping[str, Function], policies: Mapping[str, Policy]
) -> Workflow:
    """Read a workflow.

    Args:
        functions: of tools and ends, by their node's name.
        policies: of router nodes, by name, as they were built; their weights become the folder's.

    Raises:
        WorkflowError: the folder is not whole or not one of a workflow, a function or a policy is
            missing, or one does not fit what was saved.
    """
    folder = Path(folder)
    described = read_json(folder / _GRAPH)
    try:
        nodes = [_node(dict(each), functions, policies) for each in described["nodes"]]
        workflow = Workflow(described["inputs"], nodes)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, WorkflowError):
            raise
        raise WorkflowError(folder / _GRAPH, f"not a workflow ({error})", "save it again") from None
    try:
        workflow.deciders.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WorkflowError(
            folder / _WEIGHTS, f"does not fit ({reason})", "give the policies as they were built"
        ) from None
    return workflow


def _described(node: Node) -> dict[str, Any]:
    """All of a node that is not code or learned."""
    stated = {f.name: getattr(node, f.name) for f in fields(node) if f.name not in _CODE}
    learned = {"learned": node.threshold.learned} if isinstance(node, BranchNode) else {}
    return {"kind": _KINDS[type(node)], **stated, **learned}


def _node(
    described: dict[str, Any], functions: Mapping[str, Function], policies: Mapping[str, Policy]
) -> Node:
    kind, name = described.pop("kind"), described["name"]
    if kind == "tool":
        return tool(_given(functions, name, "function"), **described)
    if kind == "branch":
        # Its numbers are among the weights.
        threshold = Threshold(0.0, learned=described.pop("learned"))
        return branch(threshold=threshold, **described)
    if kind == "router":
        policy = _given(policies, name, "policy")
        return router(name, policy, described["targets"], estimator=described["estimator"])
    if kind == "loop":
        return loop(**described)
    if kind == "end":
        judge = _given(functions, name, "function")
        return end(name=name, **{"reward" if described["is_reward"] else "loss": judge})
    raise WorkflowError(name, f"a node of kind {kind!r}", "save it with this version")


def _given(things: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in things:
        raise WorkflowError(name, f"no {what} given for it", f"pass the {what} by this name")
    return things[name]

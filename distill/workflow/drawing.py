"""A workflow as a Mermaid flowchart, which READMEs and notebooks draw."""

from distill.workflow.graph import BranchNode, EndNode, LoopNode, RouterNode, ToolNode, Workflow


def mermaid(workflow: Workflow, shares: dict[str, dict[str, float]] | None = None) -> str:
    """The flowchart's text.

    Args:
        shares: of each decision, the share of each way (`Rollouts.shares`), written on the arrows.
    """
    lines = ["flowchart TD"]
    for name, node in workflow.nodes.items():
        if isinstance(node, ToolNode):
            lines.append(f'    {name}["{name}"]')
            lines.append(f"    {name} --> {node.then}")
            if node.on_error is not None:
                lines.append(f"    {name} -. error .-> {node.on_error}")
        elif isinstance(node, BranchNode):
            limit = float(node.threshold.value.detach())
            lines.append(f'    {name}{{"{node.on} ≥ {limit:.3g}?"}}')
            for word, target in (("yes", node.above), ("no", node.below)):
                lines.append(f'    {name} -- "{word}{_share(shares, name, target)}" --> {target}')
        elif isinstance(node, RouterNode):
            lines.append(f'    {name}{{{{"{name}"}}}}')
            for target in node.targets:
                share = _share(shares, name, target).strip()
                arrow = f'-- "{share}" -->' if share else "-->"
                lines.append(f"    {name} {arrow} {target}")
        elif isinstance(node, LoopNode):
            lines.append(f'    {name}(["{name}: {node.most} times at most"])')
            lines.append(f'    {name} -- "again" --> {node.body}')
            lines.append(f'    {name} -- "then" --> {node.then}')
        elif isinstance(node, EndNode):
            lines.append(f'    {name}(("{name}"))')
    return "\n".join(lines) + "\n"


def _share(shares: dict[str, dict[str, float]] | None, name: str, target: str) -> str:
    found = (shares or {}).get(name, {}).get(target)
    return "" if found is None else f" {found:.0%}"

"""Workflows: tool calls, branches and loops as one program whose decisions learn from outcomes.

    graph       nodes made of plain functions, and the workflow that they form: checked when built
    deciders    what decides at a node: a threshold, or a policy over the next nodes
    networks    trained routers as policies, whose weights outcomes tune
    environments    whole tasks in an environment, decided by such a policy
    walk        inputs -> what became of each path that was taken, by sampling or by going them all
    gradients   from losses at the ends to the deciders' gradients, exact or estimated
    learn       gradients, step by step: resumable, and never far from where it began
    checkpoint  what learning leaves in its folder, and goes on from
    offline     what deciders would have led to, estimated from outcomes on record
    drawing     the workflow as a Mermaid flowchart
    folder      a workflow and what it learned, on disk

Built of plain functions, which take the values that their parameters name:

    flow = Workflow(
        inputs=["question"],
        nodes=[
            tool(look_up, then="sure"),
            branch("sure", on="look_up", threshold=Threshold(0.5), above="answer", below="search"),
            tool(search, then="answer", cost=0.1),
            tool(answer, then="end"),
            end(loss),
        ],
    )

`learn` moves the threshold to where the loss, costs included, is least.
"""

from distill.workflow.checkpoint import Learned
from distill.workflow.deciders import Mlp, Policy, Threshold
from distill.workflow.drawing import mermaid
from distill.workflow.environments import closed_loop
from distill.workflow.folder import load_workflow, save_workflow
from distill.workflow.gradients import chosen, surrogate
from distill.workflow.graph import Workflow, branch, end, loop, router, tool
from distill.workflow.learn import imitate, learn
from distill.workflow.networks import RouterPolicy
from distill.workflow.offline import Episode, OffPolicy, episodes, off_policy
from distill.workflow.walk import Rollouts, walk

__all__ = [
    "Episode",
    "Learned",
    "Mlp",
    "OffPolicy",
    "Policy",
    "Rollouts",
    "RouterPolicy",
    "Threshold",
    "Workflow",
    "branch",
    "chosen",
    "closed_loop",
    "end",
    "episodes",
    "imitate",
    "learn",
    "load_workflow",
    "loop",
    "mermaid",
    "off_policy",
    "router",
    "save_workflow",
    "surrogate",
    "tool",
    "walk",
]

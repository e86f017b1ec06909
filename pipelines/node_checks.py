"""`plan --check`: the preflight on this machine, or on one node of each kind of a Ray cluster."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace

from pipelines.driver import RunOptions
from pipelines.jobs import DatasetConfig
from pipelines.machine_checks import machine_problems
from pipelines.new_run import new_dataset_run, new_search_run
from pipelines.preflight import NodeCheck, check_stages, one_unit_of
from pipelines.runtime.runtime import Schedule
from pipelines.search_job import SearchJobConfig
from schemas.errors import ReflectionFlowError
from schemas.terminal import say
from trainers.ray_cluster import require_ray


def check_here(
    config: DatasetConfig | SearchJobConfig, schedule: Schedule, gpus_here: float | None = None
) -> NodeCheck:
    """On this machine, in a folder that is thrown away. gpus_here: that the node has; None where all must work here."""
    machine = tuple(machine_problems(config, gpus_here))
    with tempfile.TemporaryDirectory(prefix="preflight-") as scratch:
        try:
            small: DatasetConfig | SearchJobConfig
            if isinstance(config, SearchJobConfig):
                small = one_unit_of(config)
                folder = new_search_run(f"{scratch}/run", "preflight", small)
            else:
                small = one_unit_of(config)
                folder = new_dataset_run(f"{scratch}/run", "preflight", small)
        except ReflectionFlowError as error:
            return NodeCheck(os.uname().nodename, (), str(error), machine)
        checks = check_stages(folder, small, schedule, gpus_here)
        return NodeCheck(os.uname().nodename, tuple(checks), machine=machine)


def check(config: DatasetConfig | SearchJobConfig, options: RunOptions) -> list[NodeCheck]:
    """As the run would be: on this machine, or on every kind of node."""
    if options.runtime == "local":
        return [check_here(config, options.schedule)]
    require_ray()
    from pipelines.runtime.ray import on_each_kind_of_node

    found = on_each_kind_of_node(check_here, config, options.schedule)
    return [
        replace(result, node=label) if isinstance(result, NodeCheck) else NodeCheck(label, (), result)
        for label, result in found.items()
    ]


def homeless(checks: Sequence[NodeCheck]) -> list[str]:
    """Stages that every node has left to others."""
    stages = [stage for check in checks for stage in check.stages]
    return sorted({s.stage for s in stages if s.elsewhere} - {s.stage for s in stages if not s.elsewhere})


def passed(checks: Sequence[NodeCheck]) -> bool:
    """Whether the run may begin."""
    return all(check.passed for check in checks) and not homeless(checks)


def print_checks(checks: Sequence[NodeCheck]) -> None:
    """A table a node, then what would fail."""
    for node in checks:
        say(f"preflight on {node.node}: one unit of each subset")
        for problem in node.machine:
            say(f"  would fail: {problem}")
        if node.problem:
            say(f"  would fail: {node.problem}")
            continue
        say(f"  {'stage':<20} {'subset':<8} {'loading':>9} {'a unit':>9} {'GPU GiB':>8}  what came of it")
        for stage in node.stages:
            memory = "" if stage.memory_gib is None else f"{stage.memory_gib:.1f}"
            came = stage.problem and f"would fail: {stage.problem}"
            came = came or (stage.not_tried and f"no rows: {stage.not_tried}")
            came = came or (f"{stage.rows} rows, {stage.rejected} rejected" if stage.rows else "packed")
            times = f"{stage.load_s:>7.1f} s {stage.unit_s:>7.1f} s"
            say(f"  {stage.stage:<20} {stage.subset:<8} {times} {memory:>8}  {came}")
    for stage in homeless(checks):
        say(f"would wait for ever: {stage} has no node with what its workers want")
    say("the run may begin" if passed(checks) else "mend that first; nothing was written")


def checks_json(checks: Sequence[NodeCheck]) -> dict[str, object]:
    """For scripts."""
    return {"passed": passed(checks), "homeless": homeless(checks), "nodes": [asdict(check) for check in checks]}

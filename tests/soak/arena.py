"""Where the rounds take place: a Ray cluster whose nodes come and go, and a way to find our processes."""

import os
import secrets
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

import psutil
from ray.cluster_utils import Cluster

MARK = "REFLECTIONFLOW_SOAK"
"""Environment variable that every process of a soak inherits, Ray's own included."""
# A dead node is noticed within seconds, not after half a minute.
NODE_CHECKS = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 4,
}


class Arena:
    """Use as a context: a head and other nodes. As it comes, the head has room for one stage's actor, so that the other
    node always holds some."""

    def __init__(self, sleep_s: float, num_nodes: int = 1, node_cpus: float = 3, head_cpus: float = 1) -> None:
        self.num_nodes, self.node_cpus, self.head_cpus = num_nodes, node_cpus, head_cpus
        self.nodes: list[Any] = []
        self.mark = secrets.token_hex(8)
        self.known: set[tuple[int, float]] = set()
        root = str(Path(__file__).parents[2])
        # Workers get the environment of the node they run on.
        environment = {MARK: self.mark, "TOY_SLEEP_S": str(sleep_s), "PYTHONPATH": root, "RAY_AUTH_MODE": "disabled"}
        # Ray gives workers way to everything else; a soak is to end in time beside other work.
        self.environment = mock.patch.dict(os.environ, environment | {"RAY_worker_niceness": "0"})

    def __enter__(self) -> "Arena":
        self.environment.start()
        head: dict[str, Any] = {
            "num_cpus": self.head_cpus,
            "include_dashboard": False,
            "_system_config": NODE_CHECKS,
        }
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(self.num_nodes):
            self.add_node()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.look()
        self.cluster.shutdown()
        self.environment.stop()

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        assert self.cluster.address is not None
        return self.cluster.address

    def kill_node(self) -> int:
        """The oldest node dies and another takes its place. Returns the dead raylet's pid."""
        pid = self.lose_node()
        self.add_node()
        return pid

    def lose_node(self, which: int = 0) -> int:
        """A node, the head aside, dies with all that runs on it, as when its power fails. Returns the raylet's pid."""
        node = self.nodes.pop(which)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        workers = raylet.children(recursive=True)
        self.cluster.remove_node(node, allow_graceful=False)
        for worker in workers:
            _kill(worker)
        return raylet.pid

    def add_node(self) -> None:
        """Another node. From the main thread alone: Ray sets signal handlers for every node that it starts."""
        self.nodes.append(self.cluster.add_node(num_cpus=self.node_cpus))

    def look(self) -> None:
        """Remember the processes that descend from this one now: the orphans of a kill are known by that."""
        for process in psutil.Process().children(recursive=True):
            self.known.add((process.pid, _created(process)))

    def leftovers(self, wait_s: float) -> list[psutil.Process]:
        """Our processes that are still there after so many seconds, this one left out."""
        until = time.monotonic() + wait_s
        while (found := self._processes()) and time.monotonic() < until:
            time.sleep(0.2)
        return found

    def _processes(self) -> list[psutil.Process]:
        """Those seen before, and those that carry our mark (Ray's daemons write their title over it)."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if (process.pid, _created(process)) in self.known or process.environ().get(MARK) == self.mark:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


def stage_worker(run: Path, stage: str, since: float, wait_s: float = 180.0) -> psutil.Process | None:
    """A living actor of a stage of this run that was started after `since`; each keeps a log named by its pid. None
    when none turns up."""
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        for log in sorted((run / "logs").glob(f"{stage}-*.log")):
            try:
                process = psutil.Process(int(log.stem.rpartition("-")[2]))
                if process.create_time() >= since and any("ray::StageActor" in part for part in process.cmdline()):
                    return process
            except psutil.Error:
                continue
        time.sleep(0.05)
    return None


def _created(process: psutil.Process) -> float:
    """Tells a process from a later one with the same pid. 0.0 when it is gone."""
    try:
        return process.create_time()
    except psutil.Error:
        return 0.0


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return

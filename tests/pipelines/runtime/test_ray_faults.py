"""What the Ray runtime does when a node dies, and when the store goes away."""

import logging
import threading
import uuid
from pathlib import Path

import pytest

from pipelines.driver import RunOptions, drive
from schemas.errors import StorageError
from tests.support import toy_runs
from tests.support.processes import wait_until
from tests.support.s3_server import ENVIRONMENT, FlakyProxy, shared_server
from tests.support.toy_job import ToyConfig, create, open_run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
SMALL = ToyConfig(num_prompts=8)


class Driver(threading.Thread):
    """Drives a run to its end, so that the main thread can see to the nodes."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.folder = create(str(path), ToyConfig())
        self.complete = False

    def run(self) -> None:
        self.complete = drive(self.folder, ToyConfig(), RunOptions(runtime="ray", quiet=True))


def test_a_node_that_dies_is_named_and_the_run_goes_on_when_another_joins(undisturbed, tmp_path, monkeypatch, caplog):
    import ray

    from tests.soak.arena import Arena

    monkeypatch.setattr("pipelines.runtime.ray.WARN_EVERY_S", 0.5)
    path, joined = tmp_path / "run", tmp_path / "joined"
    monkeypatch.setenv("TOY_HANG", "p017")  # the last unit is drawn when another node is there
    monkeypatch.setenv("TOY_HANG_UNTIL", str(joined))
    with Arena(sleep_s=0.3) as arena:
        ray.init(address=arena.address, log_to_driver=False)
        try:
            driver = Driver(path)
            driver.start()
            # The head has room for one of the three stages.
            wait_until(lambda: len(toy_runs.blocks(path)) >= 3 and len(list((path / "logs").iterdir())) >= 3, 300)
            first_actors = len(list((path / "logs").iterdir()))
            committed = toy_runs.stamps(path)
            with caplog.at_level(logging.WARNING):
                arena.lose_node()
                wait_until(lambda: "the cluster has lost nodes" in caplog.text, 300)
            arena.add_node()
            joined.touch()
            driver.join(timeout=300)
            assert driver.complete
        finally:
            ray.shutdown()
    assert first_actors == 3
    assert len(list((path / "logs").iterdir())) > first_actors
    assert committed.items() <= toy_runs.stamps(path).items()
    assert len(committed) < len(toy_runs.blocks(undisturbed)) == len(toy_runs.blocks(path))
    assert toy_runs.shards(path) == toy_runs.shards(undisturbed)


def test_an_outage_of_the_store_stops_the_run_and_resume_finishes_it(tmp_path, monkeypatch):
    import ray

    from pipelines.runtime.ray import connect

    store = FlakyProxy(shared_server().port)
    environment = ENVIRONMENT | {"AWS_ENDPOINT_URL": store.url, "AWS_MAX_ATTEMPTS": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    expected, uri = tmp_path / "expected", f"s3://bucket/{uuid.uuid4().hex}"
    assert toy_runs.run(expected, SMALL)
    folder = create(uri, SMALL)
    options = RunOptions(runtime="ray", quiet=True)
    state = {"blocks": 0}

    def away_after_three_blocks(method: str, path: str) -> str:
        state["blocks"] += method == "PUT" and "/stages/" in path
        return "500" if state["blocks"] > 3 else "pass"

    connect()  # workers have the environment of this moment
    try:
        store.rule = away_after_three_blocks
        with pytest.raises(StorageError, match="can be resumed") as caught:
            drive(folder, SMALL, options)
        assert caught.value.exit_code == 1
        assert uri in str(caught.value)
        store.rule = lambda method, path: "pass"
        left, config = open_run(uri)
        assert left.quarantined() == []
        # What could not be taken back is the lease; its process is this one, and it is alive.
        assert drive(left, config, RunOptions(runtime="ray", quiet=True, take_over=True))
        assert left.quarantined() == []
        shards = {name: left.storage.read(f"shards/{name}") for name in left.storage.names("shards")}
    finally:
        ray.shutdown()
        store.stop()
    assert shards == toy_runs.shards(expected)

import hashlib
import uuid

import pytest

from pipelines.conservation import tally, verify
from pipelines.driver import RunOptions, drive
from pipelines.runtime.failures import FailurePolicy
from schemas.errors import StorageError
from schemas.records import Outcome
from schemas.storage import Storage, is_free
from tests.support import toy_job
from tests.support.s3_server import ENVIRONMENT, FlakyProxy, shared_server

CONFIG = toy_job.ToyConfig(num_prompts=6, unit_size=2)
OPTIONS = RunOptions(quiet=True, failures=FailurePolicy(first_wait_s=0.01))


@pytest.fixture
def proxy(monkeypatch):
    """Every S3 request of the test goes through this."""
    flaky = FlakyProxy(shared_server().port)
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": flaky.url}.items():
        monkeypatch.setenv(name, value)
    yield flaky
    flaky.stop()


@pytest.fixture
def uri(proxy) -> str:
    return f"s3://bucket/{uuid.uuid4().hex}"


def digests(storage: Storage, folder: str) -> dict[str, str]:
    """Of every file, by path."""
    found: dict[str, str] = {}
    for name in storage.names(folder):
        path = f"{folder}/{name}"
        if storage.size(path) is None or "." not in name:
            found |= digests(storage, path)
        else:
            found[path] = hashlib.sha256(storage.read(path)).hexdigest()
    return found


@pytest.fixture(scope="module")
def local_digests(tmp_path_factory) -> dict[str, str]:
    """Blocks and shards of the same run in a local folder."""
    folder = toy_job.create(str(tmp_path_factory.mktemp("local") / "run"), CONFIG)
    assert drive(folder, CONFIG, OPTIONS)
    return digests(folder.storage, "stages") | digests(folder.storage, "shards")


def everything(storage: Storage) -> dict[str, str]:
    return digests(storage, "stages") | digests(storage, "shards")


def test_a_run_on_s3_makes_the_same_bytes_as_a_local_one_and_leaves_nothing_else(uri, local_digests):
    folder = toy_job.create(uri, CONFIG)
    assert drive(folder, CONFIG, OPTIONS)
    assert everything(folder.storage) == local_digests
    assert verify(folder, CONFIG, deep=True) == []
    assert set(folder.storage.names("")) == {"prompts.parquet", "run.json", "shards", "stages", "stats"}


def test_resume_makes_what_was_deleted_or_broken_again(uri, proxy, local_digests):
    folder = toy_job.create(uri, CONFIG)
    assert drive(folder, CONFIG, OPTIONS)
    blocks = [path for path in local_digests if path.startswith("stages/draw_squares/")]
    shard = next(path for path in local_digests if path.endswith(".tar"))
    folder.storage.delete(blocks[0])
    folder.storage.commit(blocks[1], b"half a block")
    folder.storage.delete(shard)
    assert len(verify(folder, CONFIG, deep=True)) >= 3
    again, config = toy_job.open_run(uri)
    assert drive(again, config, RunOptions(quiet=True, check_blocks=True))
    assert everything(again.storage) == local_digests
    assert verify(again, config, deep=True) == []


@pytest.mark.parametrize(
    ("what", "where"), [("500", "/stages/draw_squares/"), ("drop", "/stages/check_colors/"), ("500", "/shards/")]
)
def test_an_outage_stops_the_run_and_resume_finishes_it(uri, proxy, local_digests, monkeypatch, what, where):
    monkeypatch.setattr("schemas.object_storage.MAX_ATTEMPTS", 1)
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    folder = toy_job.create(uri, CONFIG)
    state = {"puts": 0}

    def away_from_the_second_put_on(method: str, path: str) -> str:
        state["puts"] += method == "PUT" and where in path
        return what if state["puts"] >= 2 else "pass"

    proxy.rule = away_from_the_second_put_on
    with pytest.raises(StorageError, match="can be resumed") as caught:
        drive(folder, CONFIG, OPTIONS)
    assert caught.value.exit_code == 1
    proxy.rule = lambda method, path: "pass"
    left, config = toy_job.open_run(uri)
    assert left.quarantined() == []
    assert 0 < len(everything(left.storage)) < len(local_digests)
    # What could not be taken back is the lease; its process is this one, and it is alive.
    assert not is_free(left.storage.lease()[1])
    assert drive(left, config, RunOptions(quiet=True, take_over=True))
    assert everything(left.storage) == local_digests
    assert left.quarantined() == []
    assert verify(left, config, deep=True) == []
    assert tally(left, config).prompts[Outcome.PENDING] == 0


def test_the_command_says_what_happened_and_ends_with_1(uri, proxy, capsys):
    proxy.rule = lambda method, path: "500" if method == "PUT" and "/stages/check_colors/" in path else "pass"
    assert toy_job.main([uri]) == 1
    assert f"{uri}/stages/check_colors/" in capsys.readouterr().err
    proxy.rule = lambda method, path: "pass"
    assert toy_job.main([uri]) == 0

"""A driver that is killed, or frozen while another takes over, before every file operation: is anything lost or mixed?

    python -m tests.soak.pause_everything --out benchmarks/results/pause_everything.json

Every scenario (run, retry, gc, fork) is played once undisturbed, and its changing operations are counted: renames,
links, deletions, writes, syncs; on S3 (moto, over HTTP) puts, deletions, copies and looks at the lease. Then, for each
of them, in processes of their own:

- killed: SIGKILL before the operation; the same command again must make the same bytes;
- frozen: SIGSTOP before the operation; a second driver takes over and finishes; SIGCONT; the first must end by itself
  with exit code 0 or 3, and the bytes must still be the second's.

After either, `verify --deep` has nothing to say. On an object store one deletion that was under way may arrive late (it
has no conditions): what it took must be named by `verify` and made again by `resume`, and is counted as healed.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import obstore
import torch

from pipelines.conservation import verify
from pipelines.driver import RunOptions, drive
from pipelines.garbage import collect_garbage
from pipelines.lease import Lease
from pipelines.quarantine import clear_quarantine
from pipelines.run_folder import RunFolder
from pipelines.runtime.failures import FailurePolicy
from pipelines.stages.select_pairs import SelectPairsConfig
from pipelines.upkeep import copy_valid_blocks
from schemas.errors import ForeignRunError, LeaseHeldError, ReflectionFlowError
from schemas.open_storage import open_storage
from schemas.storage import Storage
from tests.support import toy_job
from tests.support.s3_server import ENVIRONMENT
from tests.support.toy_job import ToyConfig

How = Literal["killed", "frozen"]
CONFIG = ToyConfig(num_prompts=8)
OTHER = replace(CONFIG, select=SelectPairsConfig(hard_max=0.2, easy_min=0.8, pairs_per_prompt=1))
LIMIT_S = 120.0
torch.set_num_threads(1)  # loaded once, and inherited by every process of this


# What is played


def _go_on(uri: str, config: ToyConfig, *, take_over: bool) -> None:
    """`run`, as a command does it: begin if need be, then all that is missing."""
    if not RunFolder.exists(uri):
        with Lease(open_storage(uri), take_over=take_over) as lease:
            if lease.storage.size("run.json") is None:
                toy_job.create(lease.storage, config)
    options = RunOptions(quiet=True, take_over=take_over, failures=FailurePolicy(first_wait_s=0.01))
    drive(*toy_job.open_run(uri), options)


def _run(uri: str, *, take_over: bool) -> None:
    _go_on(uri, CONFIG, take_over=take_over)


def _retry(uri: str, *, take_over: bool) -> None:
    folder, config = toy_job.open_run(uri)
    with Lease(folder.storage, take_over=take_over) as lease:
        clear_quarantine(RunFolder.open(lease.storage), config)
    _go_on(uri, config, take_over=take_over)


def _gc(uri: str, *, take_over: bool) -> None:
    folder, config = toy_job.open_run(uri)
    with Lease(folder.storage, take_over=take_over) as lease:
        collect_garbage(RunFolder.open(lease.storage), config, keep="paired")
    _go_on(uri, config, take_over=take_over)


def _fork(uri: str, *, take_over: bool) -> None:
    source, source_config = toy_job.open_run(f"{uri}-source")
    if not RunFolder.exists(uri):
        with Lease(open_storage(uri), take_over=take_over) as lease:
            if lease.storage.size("run.json") is None:

                def fill(target: RunFolder) -> None:
                    copy_valid_blocks(source, source_config, target, OTHER)

                toy_job.create(lease.storage, OTHER, fill)
    _go_on(uri, OTHER, take_over=take_over)


def _before_retry(uri: str) -> None:
    os.environ["TOY_FAIL"] = "p005"
    _go_on(uri, CONFIG, take_over=False)
    del os.environ["TOY_FAIL"]


def _before_gc(uri: str) -> None:
    """A finished run beside blocks of another configuration."""
    _go_on(uri, CONFIG, take_over=False)
    storage = open_storage(uri)
    for unit in range(2):
        storage.commit(f"stages/draw_squares/{'0' * 16}/000/{unit:06d}.parquet", b"of a key that nobody has")


def _before_fork(uri: str) -> None:
    _go_on(f"{uri}-source", CONFIG, take_over=False)


@dataclass(frozen=True)
class Scenario:
    """prepare: what is there before; act: the command that is disturbed."""

    name: str
    prepare: Callable[[str], None]
    act: Callable[..., None]


SCENARIOS = (
    Scenario("run", lambda uri: None, _run),
    Scenario("retry", _before_retry, _retry),
    Scenario("gc", _before_gc, _gc),
    Scenario("fork", _before_fork, _fork),
)


# How it is disturbed


class Hook:
    """Counts changing operations of this process, and stops it before number `at`."""

    def __init__(self, at: int | None, how: How) -> None:
        self.at, self.how, self.count = at, how, 0

    def before(self, name: str) -> None:
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL if self.how == "killed" else signal.SIGSTOP)
        self.count += 1

    def install(self, on_s3: bool) -> None:
        """Into this process, for good."""
        if on_s3:
            for name in ("put", "delete", "copy", "get"):
                setattr(obstore, name, self._watched(name, getattr(obstore, name)))
            return
        for name in ("replace", "rename", "link", "unlink", "mkdir", "rmdir", "fsync"):
            setattr(os, name, self._watched(name, getattr(os, name)))
        pathlib.Path.write_bytes = self._watched("write", pathlib.Path.write_bytes)  # pyright: ignore

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def operation(*arguments: Any, **options: Any) -> Any:
            # Looks at anything but the lease change nothing, and no other driver.
            if name != "get" or ".lease" in str(arguments[1]):
                self.before(name)
            return real(*arguments, **options)

        return operation


def _child(work: Callable[[], Any]) -> int:
    """A process of its own that does this; its exit code is that of a command, 99 for a traceback."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        work()
        code = 0
    except ReflectionFlowError as error:
        code = error.exit_code
        if not isinstance(error, LeaseHeldError | ForeignRunError):
            traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, *, or_stopped: bool = False) -> int:
    """Exit code, -signal; None's place is taken by 1000 for a process that stopped itself."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG | (os.WUNTRACED if or_stopped else 0))
        if found:
            return 1000 if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"a driver was not done after {LIMIT_S:.0f} s")


def _in_child(work: Callable[[], Any]) -> Any:
    """The value of `work`, as JSON, from a process of its own: this one never opens a connection."""
    with tempfile.NamedTemporaryFile("r") as file:
        pid = _child(lambda: Path(file.name).write_text(json.dumps(work())))
        if code := _wait(pid):
            raise RuntimeError(f"exit code {code}")
        return json.loads(file.read())


@dataclass(frozen=True)
class Played:
    """What one disturbed scenario came to. healed: `verify` named what a late deletion took, `resume` made it again."""

    scenario: str
    place: str
    how: str
    at: int
    exit_code: int
    problems: tuple[str, ...]
    healed: bool = False


def contents(storage: Storage, folder: str = "") -> dict[str, str]:
    """Every file of stages, shards and quarantine with a hash of its bytes."""
    found: dict[str, str] = {}
    for name in storage.names(folder):
        path = f"{folder}/{name}".lstrip("/")
        if path.split("/")[0] not in ("stages", "shards", "quarantine", "barriers"):
            continue
        if "." in name:
            found[path] = hashlib.sha256(storage.read(path)).hexdigest()
        else:
            found |= contents(storage, path)
    return found


def play(scenario: Scenario, uri: str, at: int | None, how: How) -> int:
    """Exit code of the first driver, which is disturbed before operation `at`; None: only counted, in SOAK_COUNT."""
    on_s3 = uri.startswith("s3://")

    def first() -> None:
        hook = Hook(at, how)
        hook.install(on_s3)
        try:
            scenario.act(uri, take_over=False)
        finally:
            if at is None:
                Path(os.environ["SOAK_COUNT"]).write_text(str(hook.count))

    pid = _child(first)
    code = _wait(pid, or_stopped=True)
    if code == 1000:
        second = _wait(_child(lambda: scenario.act(uri, take_over=True)))
        os.kill(pid, signal.SIGCONT)
        code = _wait(pid)
        if second:
            raise RuntimeError(f"the second driver ended with {second}")
    elif code == -signal.SIGKILL and (again := _wait(_child(lambda: scenario.act(uri, take_over=False)))):
        raise RuntimeError(f"the same command after a kill ended with {again}")
    return code


def problems_of(uri: str, expected: dict[str, str]) -> list[str]:
    """What `verify --deep` says, and which bytes are others than those of the undisturbed scenario."""
    folder, config = toy_job.open_run(uri)
    found = contents(folder.storage)
    wrong = [f"{path} differs" for path in sorted({*found, *expected}) if found.get(path) != expected.get(path)]
    return [*verify(folder, config, deep=True), *wrong]


def play_all(scenario: Scenario, place: Callable[[], str], every: int, say: Callable[[str], None]) -> Iterator[Played]:
    """The scenario disturbed before every `every`-th operation, in both ways."""
    whole = place()
    kind = "s3" if whole.startswith("s3://") else "local"
    with tempfile.NamedTemporaryFile() as count:
        os.environ["SOAK_COUNT"] = count.name
        _in_child(lambda: scenario.prepare(whole))
        play(scenario, whole, None, "killed")
        operations = int(Path(count.name).read_text())
    expected = _in_child(lambda: contents(open_storage(whole)))
    for how in ("killed", "frozen"):
        counts: Counter[str] = Counter()
        for at in range(0, operations, every):
            uri = place()
            healed, code, problems = False, 99, []
            try:
                _in_child(lambda uri=uri: scenario.prepare(uri))
                code = play(scenario, uri, at, how)
                problems = _in_child(lambda uri=uri: problems_of(uri, expected))
                if problems and how == "frozen" and kind == "s3":
                    named = _in_child(lambda uri=uri: verify(*toy_job.open_run(uri), deep=True))
                    _in_child(lambda uri=uri: _go_on(uri, toy_job.open_run(uri)[1], take_over=False))
                    healed, problems = bool(named), _in_child(lambda uri=uri: problems_of(uri, expected))
            except (RuntimeError, TimeoutError) as error:
                problems = [str(error)]
            allowed = (0, -signal.SIGKILL) if how == "killed" else (0, LeaseHeldError.exit_code)
            if code not in allowed:
                problems = [*problems, f"the first driver ended with {code}"]
            counts["amiss" if problems else "healed" if healed else f"exit {code}"] += 1
            for problem in problems:
                say(f"  {scenario.name} on {kind}, {how} before operation {at}: {problem}")
            if not problems:
                _in_child(lambda uri=uri: _remove(uri))
            yield Played(scenario.name, kind, how, at, code, tuple(problems), healed)
        endings = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        say(f"{scenario.name:<8}{kind:<7}{how:<8}{operations:>5} operations   {endings}")


def _remove(uri: str) -> None:
    if not uri.startswith("s3://"):
        for path in (uri, f"{uri}-source"):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def s3_server() -> Iterator[None]:
    """moto in a process of its own, and the environment that leads to it."""
    code = (
        "import sys; from tests.support.s3_server import S3Server; s = S3Server(); print(s.port, flush=True);"
        "sys.stdin.read()"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        os.environ.update({**ENVIRONMENT, "AWS_ENDPOINT_URL": url})
        yield
    finally:
        server.kill()
        server.wait()


def main() -> int:
    from benchmarks.results_file import Circumstances, save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="disturb before every so many-th operation")
    parser.add_argument("--places", nargs="+", choices=("local", "s3"), default=["local", "s3"])
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    every = f" --every {arguments.every}" if arguments.every > 1 else ""
    circumstances = Circumstances.now(f"python -m tests.soak.pause_everything{every}")
    lines: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    say(f"{circumstances.command}\n{circumstances.commit}\n{circumstances.machine}, {circumstances.started_at}\n")
    played: list[Played] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, s3_server():
        for where in arguments.places:
            prefix = "s3://bucket" if where == "s3" else folder
            for scenario in SCENARIOS:
                name = scenario.name
                place = lambda prefix=prefix, name=name: f"{prefix}/{name}-{uuid.uuid4().hex[:12]}"  # noqa: E731
                played += play_all(scenario, place, arguments.every, say)
    amiss = [one for one in played if one.problems]
    healed = sum(one.healed for one in played)
    say(
        f"\n{len(played)} disturbed, {len(amiss)} amiss, {healed} healed by resume; "
        + ("FAILED" if amiss else "passed")
    )
    if arguments.out is not None:
        arguments.out.with_suffix(".log").write_text("\n".join(lines) + "\n")
        by = Counter(f"{one.scenario} on {one.place}, {one.how}" for one in played)
        figures = {"disturbed": len(played), "amiss": [asdict(one) for one in amiss], "healed": healed, "by": dict(by)}
        save("pause_everything", circumstances, figures, "the same commands undisturbed", path=arguments.out)
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main())

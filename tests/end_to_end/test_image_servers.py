"""A dataset run and a search whose images are drawn by a server over HTTP. Drivers and server are killed on the way and
started again: what was journalled is never drawn again, and its bytes stay."""

import base64
import json
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

import httpx2
import pytest

from commands.main import main
from commands.runs import open_run
from inference.vlm.pictures import digest
from pipelines.conservation import verify
from pipelines.jobs import resolve_chains
from schemas.images import decode_image, sha256
from tests.support import image_server
from tests.support.processes import wait_until

CONTEXT = multiprocessing.get_context("forkserver")
# Every process is forked from one that has imported what takes long: as real a process, and seconds saved.
CONTEXT.set_forkserver_preload(
    [
        *("torch", "openai", "pyarrow.parquet", "diffusers.pipelines.flux.pipeline_flux", "commands.main"),
        *("transformers.models.clip.modeling_clip", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl"),
        "tests.support.image_server",
    ]
)
AT_ONCE, PATIENCE_S = 2, 300.0


def _to_file(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)


def serve(output: str, *argv: str) -> None:
    _to_file(output)
    image_server.main(list(argv))


def drive(output: str, *argv: str) -> None:
    _to_file(output)
    sys.exit(main(list(argv)))


def start(target, output: Path, *argv: object):
    process = CONTEXT.Process(target=target, args=(str(output), *map(str, argv)), daemon=True)
    process.start()
    return process


def kill(process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def server_flags(prefix: str, base_url: str) -> list[str]:
    said = {"base-url": base_url, "model": image_server.MODEL, "concurrency": AT_ONCE, "retries": 2}
    flags = [part for name, value in said.items() for part in (f"{prefix}.images-api.{name}", str(value))]
    return [f"{prefix}.kind", "images-api", *flags]


def journalled(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (run / "journal").rglob("*.json")}


def image_in(entry: bytes) -> bytes | None:
    said = json.loads(entry)
    found = [one for one in (said, *said.values()) if isinstance(one, dict) and "image" in one]
    return base64.b64decode(found[0]["image"]) if found else None


def images_in(entries: dict[str, bytes]) -> list[bytes]:
    return [image for entry in entries.values() if (image := image_in(entry)) is not None]


def candidates_of(run: Path) -> list[bytes]:
    """Every image of every block, as it lies there."""
    folder, config = open_run(str(run))
    found = []
    for subset, steps in resolve_chains(folder, config).items():
        for step in (step for step in steps if step.link.stage.makes_images):
            for unit in folder.units(subset):
                _, rows = folder.read_block(step.name, step.key, unit)
                rows = folder.with_images(rows, step.name, step.key, unit)
                found += [c.image for row in rows for c in row.candidates if c.image is not None]
    return found


@pytest.mark.slow
def test_killed_drivers_and_a_killed_server_have_nothing_drawn_twice_and_lose_no_image(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base_url, log, output = f"http://127.0.0.1:{port}/v1", tmp_path / "drawn.txt", tmp_path / "output.txt"
    log.touch()

    def started_server(*argv: object):
        process = start(serve, output, "--port", port, "--log", log, *argv)
        wait_until(lambda: answers(base_url) or not process.is_alive(), PATIENCE_S)
        assert process.is_alive(), output.read_text()
        return process

    dataset, search = tmp_path / "dataset", tmp_path / "search"
    # Only the first edit is answered: whenever the search is killed, others are left to its resume.
    server = started_server("--salt", 1, "--mode", "slow, one edit")
    common = ["--num-threads", "1", "--quiet"]
    searching = start(
        drive, output, "search", "--run", search, *common, "--prompts", "micro-hard-dev", "--num-prompts", "3",
        "--unit-size", "3", "--search.width", "2", "--search.depth", "3", "--tools.verifier.kinds", "rewards",
        "--tools.generator.images-api.size-px", "32", *server_flags("--tools.generator", base_url),
        "--tools.corrector.kind", "images-api", "--preset", "micro-paper",
    )  # fmt: skip

    def lines() -> list[list[str]]:
        return [line.split() for line in log.read_text().splitlines()]

    def edits() -> set[str]:
        return {image for route, _, image in lines() if route == "edits"}

    def an_edit_is_journalled() -> bool:
        return not edits().isdisjoint(sha256(image) for image in images_in(journalled(search)))

    wait_until(lambda: an_edit_is_journalled() or not searching.is_alive(), PATIENCE_S)
    assert searching.is_alive(), output.read_text()
    kill(searching)
    building = start(
        drive, output, "run", "--run", dataset, *common, "--subsets", "general", "--num-prompts", "6",
        "--unit-size", "2", "--generate.candidates-per-prompt", "4", "--generate.generator.images-api.size-px", "32",
        *server_flags("--generate.generator", base_url),
    )  # fmt: skip
    wait_until(lambda: len(journalled(dataset)) >= 4 or not building.is_alive(), PATIENCE_S)
    assert building.is_alive(), output.read_text()
    kill(server)
    kill(building)

    before = journalled(dataset) | journalled(search)
    kept, drawn = {sha256(image) for image in images_in(before)}, lines()
    request_of = {image: request for _, request, image in drawn}
    assert kept <= request_of.keys()
    assert 4 < len(kept) < 24 + 18

    server = started_server("--salt", 2)
    resumed = [start(drive, output, "resume", "--run", run, "--quiet") for run in (dataset, search)]
    for process in resumed:
        process.join(timeout=PATIENCE_S)
    assert [process.exitcode for process in resumed] == [0, 0], output.read_text()
    kill(server)

    after = journalled(dataset) | journalled(search)
    assert before.items() <= after.items()  # not one byte of them changed
    again = lines()[len(drawn) :]
    assert not {request for _, request, _ in again} & {request_of[image] for image in kept}
    requests = [request for _, request, _ in drawn + again]
    assert 0 <= len(requests) - len(set(requests)) <= 2 * AT_ONCE  # what was on its way when they were killed

    came = {digest(decode_image(image)) for image in images_in(after)}
    for run, number in ((dataset, 24), (search, 18)):
        candidates = candidates_of(run)
        assert len(candidates) == number
        assert {digest(decode_image(image)) for image in candidates} <= came
        folder, config = open_run(str(run))
        assert verify(folder, config, deep=True) == []
    assert {route for route, _, _ in again} == {"generations", "edits"}


def answers(base_url: str) -> bool:
    try:
        return httpx2.get(f"{base_url}/models", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False

"""`python -m pipelines push`: upload a finished run's shards and card to a dataset repository on the hub."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from commands.arguments import parse
from commands.runs import RunDir, open_run
from pipelines.conservation import stray_shards, tally
from pipelines.pack_shards import shard_ranges
from pipelines.report.dataset_card import FOLDER, write_card
from pipelines.run_folder import RunFolder
from pipelines.run_names import is_card
from schemas.errors import InputError, ReflectionFlowError, WorkFailedError
from schemas.records import Outcome
from schemas.shards import is_shard
from schemas.terminal import say

FILES_A_COMMIT = 8  # shards are large; a commit that fails is sent again whole


@dataclass(frozen=True)
class PushArgs:
    """Upload shards, index and dataset card. HF_TOKEN says who you are; HF_ENDPOINT where the hub is."""

    run: RunDir
    repo: str
    """Dataset repository, as owner/name; made if it is not there."""
    private: bool = True
    """Make a new repository private."""


def main(argv: Sequence[str]) -> int:
    """0 when everything is there. What is there already, byte for byte, is not sent again."""
    arguments = parse(PushArgs, argv, "push")
    if arguments.repo.count("/") != 1:
        raise InputError(f"{arguments.repo!r}", field="--repo", expected="owner/name")
    folder, config = open_run(arguments.run)
    if tally(folder, config).prompts[Outcome.PENDING]:
        raise WorkFailedError(f"{arguments.run}: unfinished; `resume` it first")
    if strays := stray_shards(folder, len(shard_ranges(folder, config.pack))):
        raise WorkFailedError(
            f"{arguments.run}/shards: {', '.join(strays[:5])}: no shards of this run\n  move them away, then `push`"
        )
    write_card(folder, config)
    from huggingface_hub import HfApi

    num_files = push(HfApi(), folder, arguments.repo, arguments.private)
    say(f"{num_files} files are in the dataset repository {arguments.repo}")
    return 0


def push(api: Any, folder: RunFolder, repo: str, private: bool) -> int:
    """Send the run's own files of shards/ and card/. `api`: a `huggingface_hub.HfApi`. Returns how many files."""
    from huggingface_hub import CommitOperationAdd

    files = list(_files(folder))
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        for start in range(0, len(files), FILES_A_COMMIT):
            operations = [
                CommitOperationAdd(path_in_repo=target, path_or_fileobj=folder.storage.read(source))
                for source, target in files[start : start + FILES_A_COMMIT]
            ]
            message = f"files {start + 1} to {start + len(operations)} of {len(files)}"
            api.create_commit(repo, operations, commit_message=message, repo_type="dataset")
            say(message, flush=True)
    except ReflectionFlowError:
        raise
    except Exception as error:  # a refusal, or whatever the hub's client meets where nothing answers
        raise WorkFailedError(
            f"the hub refused, or does not answer: {type(error).__name__}: {error}\n"
            "  `push` again goes on; HF_TOKEN must be able to write"
        ) from error
    return len(files)


def _files(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """(path in the run, path in the repository): the card lies at the repository's root."""
    for name in filter(is_card, folder.storage.names(FOLDER)):
        yield f"{FOLDER}/{name}", name
    for name in folder.storage.names("shards"):
        if is_shard(name) or name == "index.json":
            yield f"shards/{name}", f"shards/{name}"

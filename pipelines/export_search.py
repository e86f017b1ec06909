"""A search's images in the layout that ReflectionFlow's published code writes, one folder a prompt:

00000/metadata.jsonl                  the prompt, as GenEval's scorer reads it
00000/samples/0000.png                what is delivered, where GenEval's scorer looks
00000/samples_best/0000.png           the same
00000/samples_lastround/0000.png      the best of the last round
00000/samples_path_bestround/0000_00.png, 0000_01.png, ...     how the delivered image came about, corrected each from
                                      the one before
00000/midimg/3_round@1234.png         every image, by round and seed
"""

from __future__ import annotations

import json
from collections import defaultdict

from inference.interfaces import rank_of
from pipelines.evaluation import base_of, geneval_metadata, read_rows
from pipelines.run_folder import RunFolder
from pipelines.search_job import SearchJobConfig
from schemas.errors import InputError
from schemas.open_storage import open_storage
from schemas.records import Candidate, PromptRow
from schemas.storage import Storage


def export_search(folder: RunFolder, config: SearchJobConfig, out: str) -> int:
    """Write every finished search. Returns how many there were. InputError for a file that is there with other
    bytes: another search's, or of this one before it went deeper."""
    storage = open_storage(out)
    numbers: dict[str, int] = {}
    samples: dict[str, int] = defaultdict(int)
    for row in read_rows(folder, config, with_images=True):
        if row is None:
            continue
        base = base_of(row.prompt.prompt_id, config)
        place = f"{numbers.setdefault(base, len(numbers)):05d}"
        sample, samples[base] = samples[base], samples[base] + 1
        best = best_of(row.candidates)
        last = max(c.search.round for c in row.candidates if c.search)
        last_round = [c for c in row.candidates if c.search and c.search.round == last]
        images = {
            f"samples/{sample:04d}.png": best,
            f"samples_best/{sample:04d}.png": best,
            f"samples_lastround/{sample:04d}.png": best_of(last_round),
            **{f"samples_path_bestround/{sample:04d}_{i:02d}.png": c for i, c in enumerate(path_to(best, row))},
            **{f"midimg/{c.search.round}_round@{c.seed}.png": c for c in row.candidates if c.search},
        }
        for name, candidate in images.items():
            _commit_new(storage, f"{place}/{name}", candidate.image or b"")
        _commit_new(storage, f"{place}/metadata.jsonl", (json.dumps(geneval_metadata(row)) + "\n").encode())
    return sum(samples.values())


def _commit_new(storage: Storage, path: str, data: bytes) -> None:
    if storage.size(path) is None:
        storage.commit(path, data)
    elif storage.read(path) != data:
        problem = "is there already, and is not written over"
        where = f"{storage.uri.rstrip('/')}/{path}"
        raise InputError(problem, file=where, field="--export", expected="another folder")


def best_of(candidates: list[Candidate] | tuple[Candidate, ...]) -> Candidate:
    """The verifier's choice; of equal ones the first."""
    return max(candidates, key=lambda c: (rank_of(c.search.score) if c.search else float("-inf"), -c.index))


def path_to(candidate: Candidate, row: PromptRow) -> list[Candidate]:
    """The image and those that it was corrected from, the first of them first."""
    by_index = {c.index: c for c in row.candidates}
    path = [candidate]
    while (step := path[0].search) is not None and step.parent is not None:
        path.insert(0, by_index[step.parent])
    return path

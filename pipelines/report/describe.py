"""Rows and samples as lines for a terminal. Strangers' text is made printable first: an escape sequence in a prompt
must not reach the terminal."""

from collections.abc import Iterator

from pipelines.conservation import row_outcome
from pipelines.report.words import plain
from schemas.plain_text import one_line
from schemas.records import Candidate, ObjectClause, Outcome, Pair, PromptRow
from schemas.shards import ShardSample


def verdict(candidate: Candidate) -> str:
    """right, wrong or unchecked."""
    if candidate.check is None:
        return "unchecked"
    return "right" if candidate.check.correct else "wrong"


def outcome_of(row: PromptRow, *, finished: bool) -> str:
    """finished: the unit's last stage is done."""
    return str(row_outcome(row)) if finished or not row.active else str(Outcome.PENDING)


def row_lines(row: PromptRow, *, finished: bool, entry: str) -> Iterator[str]:
    """A prompt with its candidates and pairs. entry: path of its traceback, when it is in quarantine."""
    prompt = row.prompt
    about = [prompt.subset, *([prompt.tag] if prompt.tag else [])]
    if row.difficulty is not None:
        about.append(f"{row.difficulty_bin}, {row.difficulty:.2f} of its candidates right")
    yield f"{prompt.prompt_id}: {one_line(prompt.text)}"
    yield f"  {', '.join(about)}: {outcome_of(row, finished=finished)}"
    if row.recovered:
        yield f"  computed in another way: {one_line(row.recovered)}"
    for what, clauses in (("must show", prompt.include), ("must not show", prompt.exclude)):
        if clauses:
            yield f"  {what}: {'; '.join(_clause(clause) for clause in clauses)}"
    for candidate in row.candidates:
        yield from _candidate_lines(candidate, prompt.text)
    for pair in row.pairs:
        yield from _pair_lines(pair)
    if row.rejection is not None:
        yield f"  rejected by {row.rejection.stage}: {row.rejection.reason} ({one_line(row.rejection.detail)})"
    if row.quarantine is not None:
        yield f"  in quarantine, failed in {row.quarantine.stage}: {one_line(row.quarantine.error)}"
        yield f"    traceback: {entry}"


def _clause(clause: ObjectClause) -> str:
    words = [str(clause.count), *([clause.color] if clause.color else []), clause.class_name]
    if clause.relation:
        words += [clause.relation, f"object {clause.relative_to}"]
    return one_line(" ".join(words))


def _candidate_lines(candidate: Candidate, prompt: str) -> Iterator[str]:
    check = candidate.check
    score = f" {check.score:.3f}" if check else ""
    rewards = "".join(f"  {one_line(r.scorer)} {r.value:.4g}" for r in candidate.rewards)
    size = f"{candidate.width_px}x{candidate.height_px}"
    yield f"  candidate {candidate.index:<2} {verdict(candidate)}{score}{rewards}  seed {candidate.seed}  {size}"
    if candidate.text != prompt:
        yield f"    drawn from: {one_line(candidate.text)}"
    for reason in check.reasons if check else ():
        yield f"    {one_line(reason)}"
    found = [f"{o.color or ''} {o.class_name} {o.score:.2f}".strip() for o in check.objects] if check else []
    if found:
        yield f"    found: {one_line(', '.join(found))}"


def _pair_lines(pair: Pair) -> Iterator[str]:
    alike = "" if pair.likeness is None else f", likeness {pair.likeness:.3f} by {one_line(pair.likeness_by or '?')}"
    yield f"  pair {pair.index}: bad {pair.bad} -> good {pair.good}, paired by {plain(pair.paired_by)}{alike}"
    if pair.reflection is not None:
        yield f"    {one_line(pair.reflection.text)} ({one_line(pair.reflection.annotator)})"
    if pair.rejection is not None:
        yield f"    rejected by {pair.rejection.stage}: {pair.rejection.reason} ({one_line(pair.rejection.detail)})"


def sample_lines(sample: ShardSample) -> Iterator[str]:
    """A sample of a shard; published ones have no meta."""
    yield f"{sample.key}: {one_line(sample.prompt)} ({sample.subset})"
    yield f"  {one_line(sample.reflection)}"
    likeness = (sample.meta or {}).get("likeness")
    if isinstance(likeness, float | int):
        yield f"  likeness {likeness:.3f} by {one_line(str((sample.meta or {}).get('likeness_by')))}"
    for side, image in (("bad", sample.bad_image), ("good", sample.good_image)):
        about = (sample.meta or {}).get(side) or {}
        check = about.get("check") or {}
        score = f", score {check['score']:.3f}" if "score" in check else ""
        reasons = f", {one_line('; '.join(check['reasons']))}" if check.get("reasons") else ""
        number = f" candidate {about['index']}" if "index" in about else ""
        yield f"  {side}{number}: {len(image):,} bytes of {sample.image_format}{score}{reasons}"

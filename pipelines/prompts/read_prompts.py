"""Prompt files of users become prompt rows: streamed, every row checked, every bad one named or kept as a rejection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from inference.judges.known_words import KnownWords
from inference.known_classes import KnownClasses
from inference.prompt_grammar import parse_prompt
from inference.requirements.clauses import check_words, parse_exclude, parse_include
from inference.requirements.questions import parse_questions, parse_vqa_list
from pipelines.prompts.prompt_files import RawRow, check_prompt_file, raw_rows
from pipelines.prompts.prompt_ids import ID_FORM, PromptIds
from pipelines.prompts.vocabulary import Vocabulary
from pipelines.prompts.worlds import OTHER_WORDS, World, world_of
from schemas.errors import InputError
from schemas.foreign_json import BadValue, check_choice, check_int, check_text, quote, safe_text
from schemas.records import PromptRecord, PromptRow, Question, Reason, Rejection, RequirementSource, Subset, Tag

_ANY_TEXT = (
    "or GenEval's tag and include beside it (.jsonl, .parquet), since the rule subset is what a detector checked; "
    "prompts of any words make the subset general (--detailed-prompts FILE), or are searched (`search --prompts FILE`)"
)
_OTHER_WORDS = f"{OTHER_WORDS}; with models of your own: --no-closed-vocabulary"
INTAKE = "intake"  # the stage that rejections of bad input name


@dataclass(frozen=True)
class Known:
    """words: all that may be asked for, where that is closed. nouns: those that name a class where a prompt's words
    tell what it requires; None: all that this project knows. world: whose models draw, where they know its words alone.
    """

    words: KnownWords = field(default_factory=KnownWords)
    nouns: KnownClasses | None = None
    world: World | None = None

    @classmethod
    def of(cls, vocabulary: Vocabulary, name: str, closed: bool) -> Known:
        """What prompts may ask for. closed: the models know the vocabulary's words alone."""
        if not closed:
            return cls(nouns=vocabulary.known)
        world = world_of(name)
        words = KnownWords(vocabulary.class_names, frozenset(vocabulary.colors), f"; {_OTHER_WORDS}" if world else "")
        return cls(words, vocabulary.known, world)

    def check(self, text: str) -> None:
        """BadValue for a text that the models cannot draw."""
        why = self.world.why_not_known(text) if self.world else None
        if self.world and why:
            raise BadValue(f"the {self.world.name} models {why}", "prompt", f"{self.world.knows}; {_OTHER_WORDS}")


@dataclass(frozen=True)
class BadRow:
    """A row that makes no prompt. `text` is what can safely be shown of it; `line` of a Parquet file is the row."""

    prompt_id: str
    line: int
    problem: str
    field: str | None = None
    expected: str | None = None
    text: str = ""

    def as_rejection(self, subset: str) -> PromptRow:
        """The row that stands for it in a run, so that no row of the input is unaccounted for."""
        where = f" ({self.field})" if self.field else ""
        expected = f"; expected {self.expected}" if self.expected else ""
        detail = f"line {self.line}{where}: {self.problem}{expected}"
        record = PromptRecord(self.prompt_id, self.text, subset)
        return PromptRow(record, rejection=Rejection(INTAKE, Reason.BAD_INPUT_ROW.value, safe_text(detail, 500)))


def _claim_id(row: RawRow, ids: PromptIds) -> str:
    prompt_id = _as_text(row.prompt_id)
    if not isinstance(prompt_id, str) or ID_FORM.fullmatch(prompt_id) is None:
        expected = "1 to 64 characters of A-Z a-z 0-9 _ -, a whole number, or no id"
        raise BadValue(f"{quote(row.prompt_id)} is no usable id", "id", expected)
    if (first := ids.claim(prompt_id, row.line)) is not None:
        raise BadValue(f"{prompt_id!r} is already the id of the prompt on line {first}", "id", "an id used once")
    return prompt_id


def _as_text(prompt_id: object) -> object:
    """Whole numbers as text: `7`, and 7.0, which pandas makes of it where other rows have no id."""
    if isinstance(prompt_id, float) and prompt_id.is_integer():
        prompt_id = int(prompt_id)
    return str(prompt_id) if isinstance(prompt_id, int) and not isinstance(prompt_id, bool) else prompt_id


def _record(
    row: RawRow, prompt_id: str, subset: Subset, known: Known, max_chars: int, free_words: bool
) -> PromptRecord:
    if row.prompt is None:
        raise BadValue("there is no prompt", "prompt", "a field prompt or text")
    text = check_text(row.prompt, "prompt", max_chars)
    tag = None if row.tag is None else check_choice(row.tag, "tag", [tag.value for tag in Tag])
    include = parse_include(row.include, known.words)
    exclude = parse_exclude(row.exclude, include, known.words)
    questions = _questions(row)
    said = (row.tag, row.include, row.exclude, row.questions, row.vqa_list)
    if subset is Subset.RULE and all(one is None for one in said):
        return _told(text, prompt_id, known, free_words)
    if subset is Subset.RULE and not (free_words and questions):
        # Without them nothing can be checked, and the rule subset consists of what was checked. A search needs no tag:
        # requirements in none of GenEval's six forms have none.
        for name, missing in (("tag", tag is None and not free_words), ("include", not include)):
            if missing:
                raise BadValue(f"a prompt of subset rule has no {name}", name, f"GenEval's {name} (.jsonl, .parquet)")
    source = RequirementSource.FILE.value if include or exclude or questions else None
    return PromptRecord(prompt_id, text, subset.value, tag, include, exclude, questions, source)


def _questions(row: RawRow) -> tuple[Question, ...]:
    """Of either form. Raises BadValue."""
    if row.atom_count is not None:
        check_int(row.atom_count, "atom_count", 0, 1000)
    if row.questions is not None and row.vqa_list is not None:
        raise BadValue("both questions and vqa_list", "questions", "one of questions and vqa_list")
    if row.questions is not None:
        return parse_questions(row.questions)
    if row.vqa_list is not None:
        return parse_vqa_list(row.vqa_list, row.skills)
    if row.skills is not None:
        raise BadValue("skills without the questions that they belong to", "vqa_list", "GenEval 2's vqa_list")
    return ()


def _told(text: str, prompt_id: str, known: Known, free_words: bool) -> PromptRecord:
    """A prompt that comes without requirements: those that its words tell. Raises BadValue."""
    try:
        told = parse_prompt(text, prompt_id, known.nouns)
    except InputError as error:
        known.check(text)
        if free_words:
            return PromptRecord(prompt_id, text, Subset.RULE.value)
        raise BadValue(error.problem, "prompt", f"{error.expected}; {_ANY_TEXT}") from None
    for clause in told.include:
        check_words(clause, "prompt", known.words)
    return told


def _checked(
    row: RawRow,
    row_number: int,
    ids: PromptIds,
    subset: Subset,
    known: Known,
    max_chars: int,
    free_words: bool,
) -> PromptRecord | BadRow:
    prompt_id = None
    try:
        if row.problem is not None:
            raise row.problem
        if row.prompt_id is not None and row.prompt_id == row.prompt_id:  # NaN is pandas' word for none
            prompt_id = _claim_id(row, ids)
        else:
            prompt_id = ids.generate(subset.value, row_number, row.line)
        record = _record(row, prompt_id, subset, known, max_chars, free_words)
        known.check(record.text)
        return record
    except BadValue as bad:
        # A bad row keeps its id where that is what was right about it.
        prompt_id = prompt_id or ids.generate(subset.value, row_number, row.line)
        text = safe_text(row.prompt if isinstance(row.prompt, str) else row.excerpt)
        return BadRow(prompt_id, row.line, bad.problem, bad.field, bad.expected, text)


def _rows(
    path: Path, subset: Subset, known: Known, max_chars: int, free_words: bool = False
) -> Iterator[tuple[int, PromptRecord | BadRow]]:
    """Each row with its line."""
    # Room for every character escaped as a surrogate pair, and for clauses.
    max_line_bytes = (1 << 20) + 12 * max_chars
    row_number = -1
    with closing(PromptIds()) as ids:
        for row_number, row in enumerate(raw_rows(path, max_line_bytes)):
            yield row.line, _checked(row, row_number, ids, subset, known, max_chars, free_words)
    if row_number < 0:
        raise InputError("there is no prompt in the file", file=str(path), expected="one prompt or more")


def iterate_prompts(
    path: str | Path,
    subset: str,
    known: Known = Known(),
    max_chars: int = 2000,
) -> Iterator[PromptRecord | BadRow]:
    """Every row of a prompt file as a prompt, or as what is wrong with it; one row in memory at a time.

    `.txt` holds a prompt a line; `.jsonl` and `.parquet` have `prompt` (or `text`) and optionally `id`, `tag`,
    `include`, `exclude` in GenEval's form (GenEval's own metadata file is one), and questions: `vqa_list` and `skills`
    in GenEval 2's, or `questions` in ours. Where prompts for the rule subset come without them, the words tell them ("a
    photo of two red circles"), where all their `nouns` are known. Blank lines are skipped. Rows without an id get
    `<subset>-<row number>`. Raises InputError at the call for a file that cannot be a prompt file, and while reading
    for one without a single row.
    """
    path = Path(path)
    try:
        subset = Subset(subset)
    except ValueError:
        expected = ", ".join(item.value for item in Subset)
        raise InputError(f"unknown subset {quote(subset)}", field="subset", expected=expected) from None
    check_prompt_file(path)
    rows = _rows(path, subset, known, max_chars)
    return (row for _, row in rows)


def numbered_prompts(path: str, known: Known, max_chars: int = 2000) -> Iterator[tuple[int, PromptRecord]]:
    """Prompts of subset rule with their lines; those whose words tell no requirement come without one. InputError for
    a file or a row that is bad otherwise."""
    check_prompt_file(Path(path))
    for line, row in _rows(Path(path), Subset.RULE, known, max_chars, free_words=True):
        if isinstance(row, BadRow):
            raise InputError(row.problem, file=path, line=line, field=row.field, expected=row.expected)
        yield line, row


def _or_raise(
    rows: Iterator[PromptRecord | BadRow], path: str, subset: str, skip_bad_rows: bool
) -> Iterator[PromptRow]:
    for row in rows:
        if isinstance(row, PromptRecord):
            yield PromptRow(row)
        elif skip_bad_rows:
            yield row.as_rejection(subset)
        else:
            raise InputError(row.problem, file=path, line=row.line, field=row.field, expected=row.expected)


def read_prompts(
    path: str | Path,
    subset: str,
    known: Known = Known(),
    max_chars: int = 2000,
    skip_bad_rows: bool = False,
) -> Iterator[PromptRow]:
    """The rows a run starts from, streamed from a prompt file (see `iterate_prompts`).

    The first bad row raises InputError with file, line, field and what was expected; with `skip_bad_rows` it becomes a
    row rejected as `Reason.BAD_INPUT_ROW`.
    """
    return _or_raise(iterate_prompts(path, subset, known, max_chars), str(path), str(subset), skip_bad_rows)

"""Questions about an image as files and models give them: GenEval 2's `vqa_list` with its `skills`, or objects of
question, answer and skill. Checked one by one."""

from __future__ import annotations

import re

from schemas.absent import is_absent
from schemas.foreign_json import BadValue, check_keys, check_text, quote
from schemas.records import Question

MAX_QUESTIONS = 64
"""Of one prompt; GenEval 2 asks some ten at most."""
MAX_QUESTION_CHARS = 500
MAX_ANSWER_CHARS = 100
MAX_SKILL_CHARS = 40
_PAIR = 'a pair as in ["Is the fox writing?", "Yes"]'
_OBJECT = 'a list as in [{"question": "Is the fox writing?", "answer": "Yes"}]'
_PAIRS = 'a list as in [["Is the fox writing?", "Yes"]]'


def parse_vqa_list(value: object, skills: object, max_questions: int = MAX_QUESTIONS) -> tuple[Question, ...]:
    """GenEval 2's [[question, answer], ...], and a skill for each where there are any. Raises BadValue with the field,
    as `vqa_list[1][0]`."""
    pairs = _list(value, "vqa_list", _PAIRS, max_questions)
    found = []
    for index, pair in enumerate(pairs):
        field = f"vqa_list[{index}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadValue(f"{quote(pair)} is no pair of a question and its answer", field, _PAIR)
        found.append(check_question(pair[0], pair[1], None, f"{field}[0]", f"{field}[1]"))
    if is_absent(skills):
        return tuple(found)
    if not isinstance(skills, list) or len(skills) != len(found):
        said = f"{len(skills)} skills" if isinstance(skills, list) else f"{quote(skills)} is no list of skills"
        raise BadValue(f"{said} of {len(found)} questions", "skills", f"a list of {len(found)}, one for each question")
    return tuple(
        Question(one.text, one.answer, _skill(skill, f"skills[{index}]"))
        for index, (one, skill) in enumerate(zip(found, skills, strict=True))
    )


def parse_questions(value: object, max_questions: int = MAX_QUESTIONS) -> tuple[Question, ...]:
    """[{"question", "answer"?: "Yes", "skill"?}, ...]. Raises BadValue with the field, as `questions[1].answer`."""
    found = []
    for index, entry in enumerate(_list(value, "questions", _OBJECT, max_questions)):
        field = f"questions[{index}]"
        item = check_keys(entry, field, ("question", "answer", "skill"))
        if "question" not in item:
            raise BadValue("no question is asked", f"{field}.question", 'as in {"question": "Is the fox writing?"}')
        answer, skill = item.get("answer", "Yes"), item.get("skill")
        found.append(check_question(item["question"], answer, skill, f"{field}.question", f"{field}.answer"))
    return tuple(found)


def check_question(text: object, answer: object, skill: object, text_field: str, answer_field: str) -> Question:
    """One question; an answer that is a number becomes a text. Raises BadValue."""
    asked = check_text(text, text_field, MAX_QUESTION_CHARS)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if is_absent(answer) or (isinstance(answer, str) and not re.search(r"\w", answer)):
        raise BadValue("the question has no answer", answer_field, 'a text, such as "Yes" or "two"')
    told = check_text(answer, answer_field, MAX_ANSWER_CHARS)
    return Question(asked, told, None if skill is None else _skill(skill, f"{answer_field.rpartition('.')[0]}.skill"))


def _skill(value: object, field: str) -> str:
    return check_text(value, field, MAX_SKILL_CHARS)


def _list(value: object, field: str, form: str, max_questions: int) -> list[object]:
    if not isinstance(value, list):
        raise BadValue(f"{quote(value)} is no list", field, form)
    if not value:
        raise BadValue("the list of questions is empty", field, f"{form}, or no {field}")
    if len(value) > max_questions:
        raise BadValue(f"{len(value)} questions", field, f"at most {max_questions}")
    return value

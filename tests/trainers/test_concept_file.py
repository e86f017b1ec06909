"""Concept files: what they say, and errors that name the line."""

import os

import numpy as np
import pytest
from PIL import Image

from inference.dual.concept import ReferenceImage
from inference.vlm.overlays import ColorPalette, HorizonPosition, LineWeight, RelativeDepth
from schemas.configuration import content_key
from schemas.errors import InputError
from trainers.concept_file import concept_files, read_concept, read_concepts

WHOLE = """
name: bent-pen
prompt: a pen in a glass of water
other_prompts:
  - a straw in a glass of water
qa_pairs:
  - question: Does the pen look bent?
  - question: How many pens are there?
    answer: One.
  - question: Is it a photo?
    answer: No
  - visual_prompt: {kind: horizon_position, y: 0.25}
  - visual_prompt: {kind: color_palette, colors: ["#ff0080", [1, 2, 3]]}
    question: Do the colors match?
  - visual_prompt: {kind: line_weight, weight: 0.05}
  - visual_prompt: {kind: relative_depth, a: [0.1, 0.2], b: [0.9, 0.8]}
"""


def written(folder, text, name="concept.yaml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_whole_file(tmp_path):
    concept = read_concept(written(tmp_path, WHOLE))
    assert (concept.name, concept.prompt) == ("bent-pen", "a pen in a glass of water")
    assert concept.other_prompts == ("a straw in a glass of water",)
    assert [q.answer for q in concept.questions] == ["Yes", "One.", "No", "Yes", "Yes", "Yes", "Yes"]
    overlays = [overlay for q in concept.questions for overlay in q.overlays]
    assert overlays == [
        HorizonPosition(0.25),
        ColorPalette(((255, 0, 128), (1, 2, 3))),
        LineWeight(0.05),
        RelativeDepth((0.1, 0.2), (0.9, 0.8)),
    ]
    assert concept.questions[3].question == HorizonPosition(0).question
    assert concept.questions[4].question == "Do the colors match?"


def test_a_question_in_other_words(tmp_path):
    asked = 'name: a\nprompt: p\nqa_pairs:\n- question: Is it?\n  answer: "No"\n'
    plain = read_concept(written(tmp_path, asked))
    many = read_concept(written(tmp_path, asked + '  paraphrases: ["Is there?", "Would it?"]\n'))
    assert [(w.question, w.answer, w.paraphrases) for w in many.questions[0].wordings] == [
        ("Is it?", "No", ()),
        ("Is there?", "No", ()),
        ("Would it?", "No", ()),
    ]
    assert len(plain.questions[0].wordings) == 1
    # What a file without paraphrases was known by before there were any.
    assert plain.digest == content_key(asked, [])
    assert many.digest != plain.digest


PLAIN = "name: a\nprompt: p\nqa_pairs: [{question: 'Is it?'}]\n"


def test_prompts_that_are_taught_in_turn(tmp_path):
    said = PLAIN + "also:\n- prompt: q\n- {prompt: r, qa_pairs: [{question: 'Is it there?', answer: 'No'}]}\n"
    concept = read_concept(written(tmp_path, said))
    assert [one.prompt for one in concept.taught] == ["p", "q", "r"]
    asked = [[(q.question, q.answer) for q in one.questions] for one in concept.taught]
    assert asked == [[("Is it?", "Yes")], [("Is it?", "Yes")], [("Is it there?", "No")]]
    assert concept.digest != read_concept(written(tmp_path, PLAIN)).digest == content_key(PLAIN, [])


@pytest.mark.parametrize(
    ("also", "line", "field"),
    [
        ("- {prompt: p}", 5, r"also\[0\]\.prompt"),
        ("- {prompt: q}\n- {prompt: q}", 6, r"also\[1\]\.prompt"),
        ("- {qa_pairs: [{question: 'Is it?'}]}", 5, r"also\[0\]"),
        ("- {prompt: q, qa_pairs: []}", 5, r"also\[0\]\.qa_pairs"),
        ("- {prompt: q, name: b}", 5, r"also\[0\]"),
        ("- q", 5, r"also\[0\]"),
    ],
)
def test_what_cannot_be_taught_in_turn_is_named(tmp_path, also, line, field):
    with pytest.raises(InputError, match=rf"(?s)concept.yaml:{line}:.*field: {field}"):
        read_concept(written(tmp_path, f"{PLAIN}also:\n{also}\n"))


def test_reference_pictures_belong_to_the_digest(tmp_path):
    text = (
        "name: layout\nprompt: a field\n"
        "qa_pairs: [{question: 'Does it match?', ref_images: [a.png], overlay_mode: solid}]\n"
    )
    picture = np.zeros((6, 6, 4), np.uint8)
    picture[:3] = (255, 0, 0, 255)
    Image.fromarray(picture).save(tmp_path / "a.png")
    first = read_concept(written(tmp_path, text))
    (drawn,) = first.questions[0].overlays
    assert isinstance(drawn, ReferenceImage)
    assert drawn.mode == "solid"
    assert (drawn.picture == picture).all()
    Image.fromarray(picture[::-1].copy()).save(tmp_path / "a.png")
    assert read_concept(tmp_path / "concept.yaml").digest != first.digest
    assert read_concept(tmp_path / "concept.yaml").digest == read_concept(tmp_path / "concept.yaml").digest


HEAD = "name: x\nprompt: p\nqa_pairs:\n"
BROKEN = {
    "no YAML": ("name: [x", 1, None, "no YAML"),
    "empty": ("", None, None, "empty"),
    "a list": ("- a\n- b\n", 1, None, "no mapping"),
    "no prompt": ("name: x\nqa_pairs: []\n", 1, "prompt", "no prompt"),
    "unknown key": ("name: x\nprompt: p\nprompts: q\n", 3, "prompts", "not known"),
    "key twice": ("name: x\nname: y\n", 2, "name", "twice"),
    "a name with spaces": ("name: a b\nprompt: p\nqa_pairs: [{question: q}]\n", 1, "name", "no name"),
    "prompt without text": ("name: x\nprompt:\nqa_pairs: [{question: q}]\n", 2, "prompt", "no text"),
    "no questions": ("name: x\nprompt: p\nqa_pairs: []\n", 3, "qa_pairs", "no questions"),
    "questions that are no list": (HEAD.replace(":\n", ": q\n"), 3, "qa_pairs", "no list"),
    "a pair without question": (HEAD + "  - answer: 'Yes'\n", 4, "qa_pairs[0].question", "no question"),
    "second pair": (HEAD + "  - question: q\n  - quest: q\n", 5, "qa_pairs[1].quest", "not known"),
    "a paraphrase that is the question": (
        HEAD + "  - question: Is it?\n    paraphrases: ['Is there?', 'is it?']\n",
        5,
        "qa_pairs[0].paraphrases",
        "asked already",
    ),
    "paraphrases that are no list": (
        HEAD + "  - question: q\n    paraphrases: r\n",
        5,
        "qa_pairs[0].paraphrases",
        "no list",
    ),
    "overlay mode": (
        HEAD + "  - question: q\n    ref_images: [a.png]\n    overlay_mode: both\n",
        6,
        "qa_pairs[0].overlay_mode",
        "no overlay mode",
    ),
    "mode without picture": (
        HEAD + "  - question: q\n    overlay_mode: solid\n",
        5,
        "qa_pairs[0].ref_images",
        "without pictures",
    ),
    "missing picture": (HEAD + "  - question: q\n    ref_images: gone.png\n", 5, "qa_pairs[0].ref_images", "gone.png"),
    "broken picture": (HEAD + "  - question: q\n    ref_images: [bad.png]\n", 5, "qa_pairs[0].ref_images", "decode"),
    "solid picture": (
        HEAD + "  - question: q\n    overlay_mode: solid\n    ref_images:\n      - full.png\n",
        7,
        "qa_pairs[0].ref_images",
        "hide the whole image",
    ),
    "a picture of nothing": (
        HEAD + "  - question: q\n    overlay_mode: solid\n    ref_images: [white.png]\n",
        6,
        "qa_pairs[0].ref_images",
        "shows nothing",
    ),
    "a dataset without concepts": ("dataset: []\n", 1, "dataset", "no concepts"),
    "a dataset and a name": ("dataset: [{name: a}]\nname: b\n", 2, "name", "not known"),
    "two of a dataset": (
        "dataset:\n" + "".join(f"- {{name: {n}, prompt: p, qa_pairs: [{{question: q}}]}}\n" for n in "ab"),
        None,
        "dataset",
        "2 concepts",
    ),
    "visual prompt": (
        HEAD + "  - visual_prompt: {kind: horizon}\n",
        4,
        "qa_pairs[0].visual_prompt.kind",
        "no visual prompt",
    ),
    "share": (
        HEAD + "  - visual_prompt:\n      kind: line_weight\n      weight: 2\n",
        6,
        "qa_pairs[0].visual_prompt.weight",
        "no share",
    ),
    "color": (
        HEAD + "  - visual_prompt:\n      kind: color_palette\n      colors:\n        - [1, 2, 300]\n",
        7,
        "qa_pairs[0].visual_prompt.colors",
        "no color",
    ),
    "point": (
        HEAD + "  - visual_prompt: {kind: relative_depth, a: [0.1], b: [0, 1]}\n",
        4,
        "qa_pairs[0].visual_prompt.a",
        "1 numbers",
    ),
    "encoding": (b"name: x\nprompt: \xff\n", 2, None, "no UTF-8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_name_file_line_and_field(tmp_path, name):
    text, line, field, problem = BROKEN[name]
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n but no")
    Image.new("RGB", (4, 4)).save(tmp_path / "full.png")
    Image.new("RGB", (4, 4), "white").save(tmp_path / "white.png")
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=problem) as caught:
        read_concept(path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (str(path), line, field)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["../secret.png", "/dev/zero", "pipe.png", "zero.png", '"a\\0b.png"', "sub"])
@pytest.mark.timeout(120)
def test_pictures_are_files_of_the_concepts_folder(tmp_path, name):
    folder = tmp_path / "concepts"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    path = written(folder, HEAD + f"  - question: q\n    ref_images: [{name}]\n")
    with pytest.raises(InputError, match=r"outside of the folder|no regular file|no name of a file") as caught:
        read_concept(path)
    assert (caught.value.line, caught.value.field) == (5, "qa_pairs[0].ref_images")


@pytest.mark.timeout(120)
def test_a_concept_file_is_a_regular_one(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").symlink_to("/dev/zero")
    for path in concept_files(tmp_path):
        with pytest.raises(InputError, match="no regular file"):
            read_concept(path)


def test_a_folder_of_concepts(tmp_path):
    with pytest.raises(InputError, match="no concepts"):
        concept_files(tmp_path)
    for name in ("b.yaml", "a.yml", "c.txt", "._b.yaml"):
        written(tmp_path, WHOLE, name)
    assert [path.name for path in concept_files(tmp_path)] == ["a.yml", "b.yaml"]


PUBLISHED = """
question_postfix: "Answer with Yes or No."
opt_kwargs: {num_opt_steps: 100}
dataset:
  - name: man-smile
    prompt: "Photo of a man"
    qa_pairs:
      - question: "Is the man smiling?"
        answer: "Yes"
  - {name: layout, prompt: a field, qa_pairs: [{question: Q, ref_images: sketch.png, overlay_mode: solid}]}
"""


def test_a_published_file_is_read_as_it_is(tmp_path, caplog):
    sketch = np.full((6, 6, 3), 255, np.uint8)
    sketch[1:3] = (255, 0, 0)
    Image.fromarray(sketch).save(tmp_path / "sketch.png")
    path = written(tmp_path, PUBLISHED)
    man, layout = read_concepts(path)
    assert (man.name, man.prompt, man.questions[0].postfix) == ("man-smile", "Photo of a man", "Answer with Yes or No.")
    (drawn,) = layout.questions[0].overlays
    np.testing.assert_array_equal(drawn.picture[..., 3], np.where((sketch == 255).all(-1), 0, 255))
    image = np.full((6, 6, 3), 90, np.uint8)
    shown = layout.questions[0].shown(image)
    assert (shown[0] == 90).all()  # white is seen through
    assert (shown[1] == (255, 0, 0)).all()
    assert "opt_kwargs are settings of a training and are not read" in caplog.text
    assert read_concept(path, "layout").digest == layout.digest != man.digest
    with pytest.raises(InputError, match="no concept 'sun'") as refused:
        read_concept(path, "sun")
    assert refused.value.expected == "one of man-smile, layout"


def test_what_stands_behind_a_question_is_the_files_own(tmp_path):
    text = "name: x\nprompt: p\nqa_pairs: [{question: q, answer: Two.}]\n"
    for said, postfix in (
        ("", None),
        ("question_postfix: In one word.\n", "In one word."),
        ("question_postfix:\n", ""),
    ):
        (asked,) = read_concept(written(tmp_path, said + text)).questions
        assert asked.postfix == postfix

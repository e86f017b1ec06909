"""Everything that the micro world can say is made of words that its text encoders know."""

import re

import numpy as np

from microworld.scenes.captions import VOCABULARY, sample_caption, sample_captioned_scene, sample_scene
from microworld.scenes.concepts import CONCEPTS
from microworld.scenes.corrections import compare, refine_prompt
from microworld.scenes.edits import sample_edit, wrong_scene
from microworld.scenes.instructed_captions import sample_instructed_caption
from microworld.scenes.instructions import instruction
from microworld.scenes.judgement import judge_prompt
from microworld.scenes.long_captions import condense, sample_long_caption
from microworld.scenes.questions import sample_questions

# As microworld.training.flux_model.build_tokenizer splits lower-cased text.
TOKEN = re.compile(r"\[reflexion\]|[a-z]+|[0-9]|[^\sa-z0-9]")
T5_TOKENS = 48  # with the end token


def tokens(text: str) -> list[str]:
    return TOKEN.findall(text.lower())


def test_texts_for_the_generator_are_known_words_and_fit_the_encoder():
    rng = np.random.default_rng(1)
    unknown: set[str] = set()
    longest = 0
    for _ in range(1000):
        long, scene = sample_long_caption(rng)
        texts = [long, condense(scene, rng), sample_instructed_caption(rng)[0], sample_captioned_scene(rng)[0]]
        for text in texts:
            unknown |= set(tokens(text)) - set(VOCABULARY)
            longest = max(longest, len(tokens(text)) + 1)
    assert not unknown
    assert longest <= T5_TOKENS


def test_instructions_questions_and_judgements_are_known_words():
    rng = np.random.default_rng(2)
    unknown: set[str] = set()
    for _ in range(400):
        caption = sample_caption(rng)
        scene = sample_scene(rng, caption)
        back, wrong = wrong_scene(rng, caption, scene)
        edit, _ = sample_edit(rng, scene)
        texts = [instruction(edit, rng), instruction(edit), instruction(back, rng), instruction(back)]
        texts += [word for q in sample_questions(rng, scene, 3) for word in (q.text, q.answer)]
        texts += [str(judge_prompt(caption, wrong)), str(compare(rng, caption, wrong, scene))]
        refined = refine_prompt(rng, caption, wrong)
        assert len(tokens(refined)) < T5_TOKENS
        for text in [*texts, refined]:
            unknown |= set(tokens(text)) - set(VOCABULARY)
    assert not unknown


def test_descriptions_of_concepts_are_known_words():
    for concept in CONCEPTS.values():
        assert set(tokens(concept.description)) <= set(VOCABULARY), concept.word

"""The words of the pages: what a stage, a rule or an outcome is called, and what it means."""

from __future__ import annotations

PAIRED_BY = {
    "check_score": "the check, a right image with a wrong one",
    "select_by_reward": "the rewards, one of the best images with one of the worst",
    "select_by_length": "the rewards, the short prompt's image with the long one's",
    "read_edits": "its editing dataset",
    "harvest_pairs": "a search, an image with what came of it",
}
"""Who made two images a pair ("paired by ..."), by what a pair says of itself (`schemas.records.Pair.paired_by`)."""

MEANINGS = {
    "pair": "A worse image, a better one of the same prompt, and the reflection that leads from one to the other.",
    "shipped": "It is in the dataset's shards.",
    "rejected": "It was looked at and turned down, for the reason that stands beside it.",
    "in quarantine": "An error stopped it. `retry` tries it again.",
    "pending": "Its last stage is not done yet.",
    "paired": "A candidate that is one of the images of a shipped pair.",
    "unused": "A candidate that is in no pair: others of its prompt were taken.",
    "candidate": "One of the images that were drawn of a prompt, to choose from.",
    "tag": "The kind of task that a prompt sets, such as counting or position.",
    "no tag": "The prompt was given without a kind of task: all free prompts are.",
    "difficulty": "Easy, medium or hard, by the share of a prompt's candidates that are right.",
    "unchecked": "Nothing looked for objects in this image: it was chosen by rewards, or came with its dataset.",
    "subset": "Which way the pairs were made: by rules, by rewards, by a prompt's length, or from an editing dataset.",
    "unit": "A few consecutive prompts, which are worked on together.",
    "judge": "Who says right or wrong in the end. The search never sees it.",
    "verifier": "Who scores images during a search; the image it likes best is delivered.",
    "reflection": "What was said to be wrong with an image, as an instruction for drawing it again.",
    "likeness": "How alike the two images of a pair are: 1 for equal ones, on the scale of what measured it.",
    "budget": "How many images a search may draw.",
    "best there was": "The score if the judge itself had chosen among the images: no verifier can do better.",
    "round": "Every chain draws one image a round.",
    "chain": "Images that follow from one another; a search has several at once.",
    "drawn afresh": "The chain was given up, and its next image drawn from new noise.",
    "requirement": "One thing that a prompt asks for: an object, a number, a colour, a place.",
    "GM": "The geometric mean of the probabilities of all expected answers: low where one of them is.",
    "AM": "Their arithmetic mean.",
    "atoms": "The single things that a prompt asks for; each has a question.",
    "try": "An image of each of a pair's two prompts. It counts where both are right.",
    "given to": "An image that fits both descriptions supports one of them, by a coin.",
    "95 %": "In brackets: where the score would lie with other prompts of the same kind. One prompt has no interval.",
    "learnt": "The VLM gives the wanted answers on seeds that were not trained on.",
    "fooled": "The VLM gives them, and a second VLM, the referee, denies them: what was made before is kept.",
    "not learnt": "It does not, even after training; what was made is kept.",
}
"""What a page's words mean, in a sentence each."""


def plain(name: str) -> str:
    """A name of the code as words, where a person reads."""
    return PAIRED_BY.get(name, name.replace("_", " "))


def explained(names: list[str]) -> list[tuple[str, str]]:
    """Each word with its meaning. KeyError for a word that has none."""
    return [(name, MEANINGS[name]) for name in names]

"""What a model is asked about a prompt, so that its answer becomes a concept's questions: which templates."""

from dataclasses import dataclass

from schemas.configuration import template_field


@dataclass(frozen=True)
class QuestionWords:
    """What a model is asked for a concept's questions: names in inference/prompts, or files."""

    implied: str = template_field("implied")
    """What an image of a prompt shows, in statements, with {prompt}."""
    parts: str = template_field("question_parts")
    """Its questions, the easiest first, with {prompt} and {description}."""
    few: str = template_field("questions")
    """The same where no parts are wanted."""

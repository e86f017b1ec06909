"""What an endpoint's refusals and silences mean for whoever typed the command."""

from collections.abc import Iterator
from contextlib import contextmanager

from inference.vlm.vlm import VlmConfig
from schemas.errors import OutageError, WorkFailedError

_MAX_CHARS = 400


@contextmanager
def explained(vlm: VlmConfig) -> Iterator[None]:
    """Turn the `openai` client's errors into ours: OutageError for an endpoint that stays away, WorkFailedError for a
    request that it turns down. (A wrong key or model is an AccessError already.)"""
    import openai

    try:
        yield
    except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
        raise OutageError(
            f"{vlm.base_url or vlm.name} does not answer: {_short(error)}\n"
            "  what to do: run the same command later; answers so far are kept and not asked for again"
        ) from None
    except openai.APIStatusError as error:
        raise WorkFailedError(f"{vlm.base_url or vlm.name} turned the request down: {_short(error)}") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_CHARS]

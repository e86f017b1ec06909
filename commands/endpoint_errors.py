"""What an endpoint's refusals and silences mean for whoever typed the command."""

from collections.abc import Iterator
from contextlib import contextmanager

from inference.vlm.vlm import VlmConfig
from schemas.errors import InputError, OutageError, WorkFailedError

_MAX_CHARS = 400


@contextmanager
def explained(vlm: VlmConfig) -> Iterator[None]:
    """Turn the `openai` client's errors into ours: InputError for a wrong key or model name, OutageError for an
    endpoint that stays away, WorkFailedError for a request that it turns down."""
    import openai

    try:
        yield
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        problem = f"{vlm.base_url} refused the key: {_short(error)}"
        raise InputError(problem, field=vlm.api_key_env, expected="a key in this environment variable") from None
    except openai.NotFoundError as error:
        problem = f"{vlm.base_url} has no such model or path: {_short(error)}"
        raise InputError(problem, field="--vlm.endpoint-model, --vlm.base-url") from None
    except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
        raise OutageError(
            f"{vlm.base_url or vlm.name} does not answer: {_short(error)}\n"
            "  what to do: run the same command later; answers so far are kept and not asked for again"
        ) from None
    except openai.APIStatusError as error:
        raise WorkFailedError(f"{vlm.base_url or vlm.name} turned the request down: {_short(error)}") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_CHARS]

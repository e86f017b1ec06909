"""The error tree. Every error that a user can cause or must act on is one of these; its message says what was wrong,
where, what was expected and what to do. Rejections of data are not errors: see `records.Rejection`."""

from schemas.plain_text import one_line


class ReflectionFlowError(Exception):
    """Base of all errors that are printed without a traceback. `exit_code` is what a command ends with."""

    exit_code = 1


class InputError(ReflectionFlowError):
    """Bad usage or bad input, found before any work starts."""

    exit_code = 2

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        line: int | None = None,
        field: str | None = None,
        expected: str | None = None,
    ) -> None:
        self.problem, self.file, self.line, self.field, self.expected = problem, file, line, field, expected
        place = one_line(file or "")
        if line is not None:
            place += f":{line}"
        parts = [f"{place}: {problem}" if place else problem]
        if field is not None:
            parts.append(f"  field: {one_line(field)}")
        if expected is not None:
            parts.append(f"  expected: {expected}")
        super().__init__("\n".join(parts))


class MissingWeightsError(InputError):
    """A model's weights are not where the configuration says."""


class AccessError(InputError):
    """A server that answers none of our requests: a wrong key, a wrong model, no credit. A run stops at once."""


class ForeignRunError(ReflectionFlowError):
    """The folder belongs to another configuration, or is no run."""

    exit_code = 3


class LeaseHeldError(ReflectionFlowError):
    """Another driver is working in this run folder."""

    exit_code = 3


class WorkFailedError(ReflectionFlowError):
    """The work could not be finished; the folder can be resumed."""


class StoppedError(WorkFailedError):
    """It was asked to stop. What is done is kept, and the same command goes on."""


class OutageError(WorkFailedError):
    """Many rows failed alike, or an endpoint stayed away; nothing of the unit at hand was quarantined for it."""


class StorageError(WorkFailedError):
    """The run folder cannot be read or written (disk full, read-only, object store away)."""


class VerificationError(WorkFailedError):
    """`verify` found that something does not add up."""


class TransientError(ReflectionFlowError):
    """Raised by a stage for a failure that may pass (a time-out, a 503): retried with back-off."""


class CorruptDataError(ReflectionFlowError):
    """A block, shard or image that does not read."""


class UnscoredError(ReflectionFlowError):
    """A verifier or reward that gives an image no number (NaN, infinity): a matter of its row."""


class RequestFailedError(ReflectionFlowError):
    """One request that an endpoint, which answers others, does not answer: a matter of its row."""

"""What a stage is, and how a list of stages gets its keys.

A stage is pure: rows in, one row out for every row in. It knows no runtime, no folder, no key. A chain is the list of
stages a subset's prompts pass; each stage's key is a hash of everything that changes its output, its upstream included.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from schemas.configuration import content_key, output_config
from schemas.records import PromptRow


class Stage(Protocol):
    """A step of the pipeline. Bump `version` when the same input gives other output (a golden test notices).

    reads_images: candidates come with their PNG bytes. makes_images: the block keeps the images of candidates it adds.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    reads_images: ClassVar[bool]
    makes_images: ClassVar[bool]

    def __init__(self, config: Any, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        """seed: the run's. barrier: what the stage's barrier found, when it has one."""
        ...

    def load(self) -> None:
        """Load models; called once by each worker before the first rows."""
        ...

    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        """Active rows in, the same rows in the same order out, each with this stage's part filled in and its cost
        set."""
        ...


class ShrinkableStage(Stage, Protocol):
    """A stage that can go on with less memory."""

    def shrink(self) -> bool:
        """Halve the micro-batch. False when it is already one."""
        ...


class JournallingStage(Stage, Protocol):
    """A stage whose answers come from a model that may not give them twice."""

    def keep_journal(self, journal: Any) -> None:
        """Where to keep them (`inference.vlm.endpoint.Journal`); called once, before `load`."""
        ...


class Barrier(Protocol):
    """Something that needs the whole run: reads every committed row of a stage, gives one small JSON value.

    What it finds depends on the rows and on the configuration of the stage that it stands before."""

    name: ClassVar[str]
    version: ClassVar[int]

    def __call__(self, rows: Iterable[PromptRow]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Workers:
    """How many Ray actors a stage gets, and what each of them holds. Has no say in what they make."""

    count: int = 1
    """Actors of this stage; 0 for as many as the cluster has room for."""
    cpus: float = 1.0
    """CPUs each."""
    gpus: float = 0.0
    """GPUs each; fractions share one."""


@dataclass(frozen=True)
class Link:
    """One step of a chain: the stage, its configuration (with `workers: Workers`), and the barrier that must be settled
    before it."""

    stage: type[Stage]
    config: Any
    barrier: Barrier | None = None


@dataclass(frozen=True)
class Step:
    """A link with its key. `barrier_path` is set while the barrier before it is not settled; then `key` is empty."""

    index: int
    link: Link
    key: str
    barrier_value: Mapping[str, Any] | None = None
    barrier_path: str | None = None

    @property
    def name(self) -> str:
        """The stage's name, as in the run folder."""
        return self.link.stage.name

    @property
    def loaded_as(self) -> str:
        """What one loaded stage can do: the same for the steps of several chains that differ upstream alone."""
        return content_key(self.name, repr(self.link.config), self.barrier_value)

    @property
    def settled(self) -> bool:
        """True when the key is known."""
        return bool(self.key)


def resolve_chain(
    chain: Sequence[Link],
    root_key: str,
    digests: Mapping[str, str],
    barriers: Mapping[str, Mapping[str, Any]],
    num_prompts: int,
) -> list[Step]:
    """Keys for a chain. barriers: settled values by path. num_prompts: of the subset; a barrier looks at all of them,
    so it is settled anew when prompts are appended. Steps after an unsettled barrier have no key yet."""
    steps: list[Step] = []
    upstream = root_key
    for index, link in enumerate(chain):
        value: Mapping[str, Any] | None = None
        if link.barrier is not None and upstream:
            asked = (link.barrier.version, upstream, num_prompts, output_config(link.config, digests))
            path = f"barriers/{link.barrier.name}-{content_key(*asked)}.json"
            value = barriers.get(path)
            if value is None:
                steps.append(Step(index, link, key="", barrier_path=path))
                upstream = ""
                continue
        key = ""
        if upstream:
            config = output_config(link.config, digests)
            key = content_key(link.stage.name, link.stage.version, config, upstream, value)
        steps.append(Step(index, link, key, barrier_value=value))
        upstream = key
    return steps

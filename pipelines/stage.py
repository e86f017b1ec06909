"""What a stage is, and how a list of stages gets its keys.

A stage is pure: rows in, one row out for every row in. It knows no runtime, no folder, no key. A chain is the list of
stages a subset's prompts pass; each stage's key is a hash of everything that changes its output, its upstream included.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

from inference.vlm.endpoint import Journal
from pipelines.stated_figures import Gpu
from schemas.configuration import content_key, output_config
from schemas.records import PromptRow

Item = Literal["prompts", "images"]


@dataclass(frozen=True)
class StageCosts:
    """What one worker of a stage takes, before any was measured. seconds: for each item; None: nobody knows, a pilot
    run tells. memory_gib: at its peak on a GPU; 0 where it needs none, None: unknown. The sources say how each was
    got."""

    seconds: float | None
    source: str
    memory_gib: float | None = 0.0
    memory_source: str = ""


UNKNOWN = StageCosts(None, "unknown: run a pilot, then `plan --run` on it", memory_gib=None)


class Stage(ABC):
    """A step of the pipeline, and all that a worker, a plan or a preflight may ask of one. What a class does not say it
    inherits from here. Bump `version` when the same input gives other output (a golden test notices)."""

    name: ClassVar[str]
    version: ClassVar[int]
    reads_images: ClassVar[bool] = False
    """Candidates come with their PNG bytes."""
    makes_images: ClassVar[bool] = False
    """The block keeps the images of candidates that it adds."""
    item: ClassVar[Item] = "prompts"
    """What its work is counted in."""

    def __init__(self, config: Any, seed: int, barrier: Mapping[str, Any] | None = None) -> None:
        """seed: the run's. barrier: what the stage's barrier found, when it has one."""
        self.config, self.seed = config, seed
        self.journal: Journal | None = None

    def keep_journal(self, journal: Journal) -> None:
        """Where answers are kept of models that may not give them twice; called once, before `load`."""
        self.journal = journal

    def load(self) -> None:  # noqa: B027 - most stages that only count have nothing to load
        """Load models; called once by each worker before the first rows. torch has the run's number of threads by
        then, for a stage that has a `load` of its own."""

    def shrink(self) -> bool:
        """Go on with less memory, after running out of it. False where there is nothing left to give up."""
        return False

    @classmethod
    def needs_images(cls, config: Any) -> bool:
        """Whether candidates must come with their PNG bytes. config: the stage's own."""
        del config
        return cls.reads_images

    @classmethod
    def is_client(cls, config: Any) -> bool:
        """Whether all its work is to ask servers: then a worker needs no GPU and has several units under way. config:
        the stage's own."""
        del config
        return False

    @classmethod
    def costs(cls, config: Any, gpu: Gpu | None) -> StageCosts:
        """For `plan`, from stated figures. config: the stage's own. gpu: which its models lie on; None for the CPU."""
        del config, gpu
        return UNKNOWN

    @abstractmethod
    def __call__(self, rows: Sequence[PromptRow]) -> list[PromptRow]:
        """Active rows in, the same rows in the same order out, each with this stage's part filled in and its cost
        set."""


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
    """GPUs each; fractions share one. Whose work is to ask a vLLM or an endpoint needs none, and takes none."""


@dataclass(frozen=True)
class Link:
    """One step of a chain: the stage, its configuration (with `workers: Workers`), and the barrier that must be settled
    before it."""

    stage: type[Stage]
    config: Any
    barrier: Barrier | None = None

    @property
    def workers(self) -> Workers:
        """Who does it on Ray."""
        workers: Workers = self.config.workers
        return replace(workers, gpus=0.0) if self.is_client else workers

    @property
    def reads_images(self) -> bool:
        """Whether candidates must come with their PNG bytes."""
        return self.stage.needs_images(self.config)

    @property
    def is_client(self) -> bool:
        """Whether all its work is to ask servers."""
        return self.stage.is_client(self.config)


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
    barrier: Callable[[str], Mapping[str, Any] | None],
    num_prompts: int,
) -> list[Step]:
    """Keys for a chain. barrier: the settled value at a path. num_prompts: of the subset; a barrier looks at all of
    them, so it is settled anew when prompts are appended. Steps after an unsettled barrier have no key yet."""
    steps: list[Step] = []
    upstream = root_key
    for index, link in enumerate(chain):
        value: Mapping[str, Any] | None = None
        if link.barrier is not None and upstream:
            asked = (link.barrier.version, upstream, num_prompts, output_config(link.config, digests))
            path = f"barriers/{link.barrier.name}-{content_key(*asked)}.json"
            value = barrier(path)
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

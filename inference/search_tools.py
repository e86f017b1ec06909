"""The models of a search, by configuration: generator, corrector, critic, and the verifier that chooses."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.corrector import CorrectorConfig
from inference.critic import CriticConfig
from inference.generator import GeneratorConfig
from inference.rewards.reward import RewardConfig
from inference.routes import load_routes
from inference.search import SearchConfig, SearchTools
from inference.verifier import VerifierConfig
from inference.vlm.endpoint import Journal
from inference.vlm.vlm import VlmConfig
from schemas.configuration import added_field, routes_field
from schemas.errors import InputError


@dataclass(frozen=True)
class SearchToolsConfig:
    """The models of a search."""

    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    corrector: CorrectorConfig | None = field(default_factory=CorrectorConfig)
    """Draws again from a flawed image; strategies that draw afresh need none."""
    critic: CriticConfig | None = field(default_factory=CriticConfig)
    """Reflector and prompt refiner; none for noise alone."""
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    quality: RewardConfig | None = added_field(None)
    """What an image must not lose in many corrections (`search.max_quality_drop`): a reward of how it looks."""
    routes: str = routes_field("")
    """With `search.route` learned: the table that says which failures a correction mends sooner than a fresh drawing. A
    file that `python -m pipelines routes` wrote, or micro/routes."""

    def for_search(self, search: SearchConfig, vlm: VlmConfig) -> SearchToolsConfig:
        """What a strategy needs of it and nothing else, with `vlm` as who is asked. InputError for what is missing."""
        corrects = "reflection" in search.strategy
        corrector = self.corrector.beside(self.generator) if self.corrector and corrects else None
        if corrects and (corrector is None or not corrector.names_a_model):
            raise InputError(
                f"strategy {search.strategy!r} without a corrector",
                field="--tools.corrector",
                expected="a corrector, such as a folder that `python -m trainers corrector` wrote "
                "(--tools.corrector.flux.lora), or an editor, which needs no training (--tools.corrector.kind editor)",
            )
        self.verifier.check_mean()
        critic = None
        if search.strategy != "noise":
            if self.critic is None:
                raise InputError(f"strategy {search.strategy!r}", field="tools.critic", expected="who reflects")
            if self.critic.kind == "atoms" and "atoms" not in self.verifier.kinds:
                beside = f"--tools.verifier.kinds {' '.join([*self.verifier.kinds, 'atoms'])}, or "
                raise InputError(
                    f"critic 'atoms' with verifier {' '.join(self.verifier.kinds)}: nobody says what fails",
                    field="--tools.critic.kind",
                    expected=("" if "rewards" in self.verifier.kinds else beside) + "--tools.critic.kind vlm",
                )
            critic = self.critic.only_what_is_used(vlm)
        quality = None
        if search.max_quality_drop and corrects:
            if self.quality is None:
                raise InputError(
                    f"max_quality_drop {search.max_quality_drop:g} without a quality reward",
                    field="--tools.quality",
                    expected="a reward, such as `--tools.quality.clip.model FOLDER`",
                )
            quality = self.quality.only_what_is_used(vlm)
        return SearchToolsConfig(
            self.generator.only_what_is_used(),
            corrector,
            critic,
            self.verifier.only_what_is_used(vlm),
            quality,
            self.routes_for(search),
        )

    def routes_for(self, search: SearchConfig) -> str:
        """The table that a search goes by, "" where it goes by none. InputError where there is nothing to route, nobody
        who says what fails, or no table."""
        if search.route != "learned":
            return ""
        if "reflection" not in search.strategy:
            raise InputError(
                f"a learned route with strategy {search.strategy!r}, which corrects nothing",
                field="--search.route",
                expected="correct, or --search.strategy reflection",
            )
        if "atoms" not in self.verifier.kinds:
            raise InputError(
                f"a learned route goes by what an image fails, which {' and '.join(self.verifier.kinds)} does not say",
                field="--tools.verifier.kinds",
                expected="atoms, alone or among others",
            )
        if not self.routes:
            raise InputError(
                "a learned route without a table",
                field="--tools.routes",
                expected="a file that `python -m pipelines routes --run SEARCH --out FILE` wrote, from a pilot search "
                "with --search.route correct",
            )
        return self.routes

    @property
    def is_elsewhere(self) -> bool:
        """Whether servers do all of it: draw, correct, answer and verify."""
        drawn = [one for one in (self.generator, self.corrector) if one is not None]
        said = self.critic is None or self.critic.is_client
        return self.quality is None and all(one.is_elsewhere for one in drawn) and said and self.verifier.is_client

    def open(self, journal: Journal | None = None) -> SearchTools:
        """Load what it names. MissingWeightsError, InputError."""
        routes = load_routes(self.routes) if self.routes else None
        generator = self.generator.open(journal)
        corrector = self.corrector.open(generator, journal) if self.corrector else None
        critic = self.critic.open(journal) if self.critic else None
        verifier = self.verifier.open(journal)
        passes = self.generator.denoiser_passes_per_image
        corrector_passes = self.corrector.passes(self.generator.num_steps) if self.corrector else 0
        quality = self.quality.open(journal) if self.quality else None
        return SearchTools(
            generator,
            verifier,
            corrector,
            critic,
            quality,
            routes,
            self.generator.size_of,
            passes,
            corrector_passes,
        )

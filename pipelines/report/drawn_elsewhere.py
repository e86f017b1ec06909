"""What a report says of a run whose images servers drew."""

from pipelines.jobs import JobConfig
from pipelines.stages.draft_round import DraftRoundConfig
from pipelines.stages.generate_candidates import GenerateCandidatesConfig

NOT_IDENTICAL = (
    "A server drew images, and promises none twice alike: the run can be resumed, since each image is journalled as it "
    "came, but another run from nothing has other bytes."
)


def servers_that_draw(config: JobConfig) -> list[str]:
    """Names of the models that draw or correct elsewhere."""
    names: list[str] = []
    for one in (link.config for links in config.links().values() for link in links):
        tools = one.tools if isinstance(one, DraftRoundConfig) else None
        generator = tools.generator if tools else one.generator if isinstance(one, GenerateCandidatesConfig) else None
        if generator is not None and generator.images_api is not None:
            names.append(generator.images_api.model)
        if tools and tools.corrector and tools.corrector.images_api is not None:
            names.append(tools.corrector.images_api.reached(tools.generator.chosen).model)
    return list(dict.fromkeys(names))

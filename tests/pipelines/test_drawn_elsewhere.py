"""Runs whose images servers draw: who they are, what a plan says of them, and what their failures come to."""

from dataclasses import replace

import pytest

from commands.main import main
from inference.corrector import CorrectorConfig
from inference.generator import GeneratorConfig
from inference.images_api.corrector import ImagesApiCorrectorConfig
from inference.images_api.generator import ImagesApiGeneratorConfig
from inference.vlm.journal import StorageJournal
from pipelines.estimate import estimate, is_on_gpu
from pipelines.report.drawn_elsewhere import servers_that_draw
from pipelines.runtime.failures import FailurePolicy, execute
from pipelines.stages.generate_candidates import GenerateCandidates, GenerateCandidatesConfig
from recipes import catalogue
from schemas.configuration import output_config
from schemas.errors import AccessError, InputError, OutageError
from schemas.storage import LocalStorage
from tests.support.image_server import MODEL, MODES, ImageServer, image_server
from tests.support.rows import prompt_row

DATASET, SEARCH = (catalogue.load("images-api", part) for part in ("dataset", "search"))
MICRO, MICRO_SEARCH = (catalogue.load("micro", part) for part in ("dataset", "search"))
QUICK = FailurePolicy(max_attempts=2, first_wait_s=0.0)
HERE = "http://127.0.0.1:9/v1"


def generator_at(base_url, **changes):
    said = {"model": MODEL, "size_px": 16, "retries": 0} | changes
    return GeneratorConfig("images-api", None, images_api=ImagesApiGeneratorConfig(base_url, **said))


def stage_at(base_url, journal=None, **changes):
    config = GenerateCandidatesConfig(2, generator_at(base_url, **changes))
    stage = GenerateCandidates(config, seed=0)
    if journal is not None:
        stage.keep_journal(journal)
    stage.load()
    return stage


def rows(*texts):
    plain = map(prompt_row, range(len(texts)))
    return [
        replace(row, prompt=replace(row.prompt, text=text), candidates=())
        for row, text in zip(plain, texts, strict=True)
    ]


def test_a_plan_says_elsewhere_and_gives_servers_no_gpu():
    for plan, name in ((estimate(DATASET), "generate_candidates"), (estimate(SEARCH, num_searches=4), "draft_round")):
        stage = next(stage for stage in plan.stages if stage.name == name)
        assert (stage.seconds, stage.memory_gib) == (None, 0.0)
        assert "drawn elsewhere" in stage.source
        assert plan.placement is not None
        assert name not in plan.placement.workers
    links = [DATASET.links()["rule"][0], SEARCH.links()["rule"][0]]
    assert [(link.is_client, link.workers.gpus) for link in links] == [(True, 0.0), (True, 0.0)]
    here = replace(MICRO, generate=replace(MICRO.generate, generator=generator_at(HERE)))
    assert not is_on_gpu(here)
    assert is_on_gpu(DATASET)


def test_a_round_with_a_model_of_its_own_process_is_no_client():
    for tools in (
        replace(SEARCH.tools, verifier=replace(SEARCH.tools.verifier, kinds=("rewards",))),
        replace(SEARCH.tools, generator=MICRO_SEARCH.tools.generator),
    ):
        assert not replace(SEARCH, tools=tools).links()["rule"][0].is_client


def test_how_a_server_is_reached_is_no_part_of_a_run_s_identity():
    first = generator_at(HERE, num_steps=4)
    reached = {"api_key_env": "KEY", "headers": ("a=B",), "concurrency": 1, "timeout_s": 9.0}
    assert output_config(first, {}) == output_config(generator_at("http://there/v1", num_steps=4, **reached), {})
    for other in (
        {"num_steps": 5},
        {"model": "x", "num_steps": 4},
        {"num_steps": 4, "extra_body": '{"quality": "low"}'},
    ):
        assert output_config(first, {}) != output_config(generator_at(HERE, **other), {})


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["run"], "--generate.generator.images-api.base-url"),
        (["run", "--generate.generator.images-api.base-url", HERE, "--annotate"], "--vlm.base-url"),
        (["search", "--prompts", "composed", "--num-prompts", "2"], "--tools.generator.images-api.base-url"),
        (
            [
                *("search", "--prompts", "composed", "--num-prompts", "2", "--vlm.base-url", HERE),
                *("--tools.generator.images-api.base-url", HERE),
            ],
            "--tools.corrector.images-api.base-url",
        ),
    ],
)
def test_the_preset_s_addresses_are_asked_for_by_their_flags_and_nothing_is_written(arguments, flag, tmp_path, capsys):
    assert main([*arguments, "--preset", "images-api", "--run", str(tmp_path / "run")]) == 2
    assert f"field: {flag}\n" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_corrector_that_cannot_work_beside_the_generator_is_refused_before_any_work():
    server, flux = generator_at(HERE), MICRO_SEARCH.tools
    with pytest.raises(InputError, match="its LoRA draws with FLUX"):
        replace(MICRO_SEARCH, tools=replace(flux, generator=server)).links()
    editor = CorrectorConfig("images-api", None, images_api=ImagesApiCorrectorConfig())
    with pytest.raises(InputError, match=r"corrector.images-api.base-url"):
        replace(MICRO_SEARCH, tools=replace(flux, corrector=editor)).links()
    both = replace(MICRO_SEARCH, tools=replace(flux, generator=server, corrector=editor))
    assert servers_that_draw(both) == [MODEL]
    assert servers_that_draw(SEARCH) == ["Qwen/Qwen-Image", "Qwen/Qwen-Image-Edit-2511"]
    assert servers_that_draw(MICRO_SEARCH) == []


def test_a_refused_prompt_goes_to_quarantine_and_the_others_are_drawn_once(tmp_path):
    with image_server(ImageServer(mode=MODES["moderated"])) as server:
        stage = stage_at(server.base_url, StorageJournal(LocalStorage(tmp_path)))
        done, failures = execute(stage, rows("a star", "a forbidden ring", "a square"), QUICK)
    assert [row.quarantine is None for row in done] == [True, False, True]
    assert [len(row.candidates) for row in done] == [2, 0, 2]
    assert "safety system" in failures[0].error
    assert len(server.drawn) == len(set(server.drawn)) == 4


def test_a_server_that_goes_away_stops_the_run_and_quarantines_nothing():
    with image_server(ImageServer()) as server:
        stage = stage_at(server.base_url)
        assert len(execute(stage, rows("a star"), QUICK)[0]) == 1
    with pytest.raises(OutageError, match="nothing was quarantined"):
        execute(stage, rows("a ring"), QUICK)


@pytest.mark.parametrize("mode", ["another size", "a url elsewhere", "no credit"])
def test_what_every_image_would_meet_with_stops_the_run_at_once(mode):
    with image_server(ImageServer(mode=MODES[mode])) as server, pytest.raises(AccessError):
        execute(stage_at(server.base_url, concurrency=1), rows("a", "b", "c", "d"), QUICK)
    assert len(server.asked) == 1

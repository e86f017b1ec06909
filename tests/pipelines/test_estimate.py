"""Plans: arithmetic, memory, who gets which GPU, and that measured rates replace stated ones."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from commands.plan import main as plan
from pipelines import stated_figures as stated
from pipelines.estimate import estimate
from pipelines.model_costs import flux_memory, grounding_costs
from pipelines.placement import Cluster, StageEstimate, place
from recipes import catalogue
from schemas.errors import InputError
from schemas.image_size import ImageSize

FLUX = catalogue.load("flux", "dataset")
FLUX_24GB = catalogue.load("flux-24gb", "dataset")
_SEARCH = catalogue.load("reflectionflow", "search")
_DRAWN = replace(_SEARCH.tools.generator.flux, quantization="fp8")
PAPER = replace(_SEARCH, tools=replace(_SEARCH.tools, generator=replace(_SEARCH.tools.generator, flux=_DRAWN)))


def test_arithmetic_of_a_pass_fits_the_published_figures():
    assert stated.flux_pass_tflop(ImageSize(1024, 1024), 512) == pytest.approx(74.4)
    assert stated.flux_pass_tflop(ImageSize(1024, 1024), 512, condition_px=512) == pytest.approx(94.9, abs=0.1)


def test_memory_of_flux_in_bf16_fits_the_published_peak():
    gib, source = flux_memory(FLUX.generate.generator.flux)
    assert gib - stated.CUDA_CONTEXT_GIB == pytest.approx(36.17, abs=0.05)
    assert source.startswith("derived")


def test_several_sizes_cost_what_they_cost_in_the_mean_and_fill_what_the_largest_fills():
    def plan(*sizes):
        generator = replace(FLUX.generate.generator, sizes=sizes)
        return estimate(replace(FLUX, generate=replace(FLUX.generate, generator=generator)), Cluster(gpus=8))

    def drawing(*sizes):
        return next(stage for stage in plan(*sizes).stages if stage.name == "generate_candidates")

    square, wide, both = drawing("1024x1024"), drawing("1536x1024"), drawing("1024x1024", "1536x1024")
    assert (square.seconds_per_item, square.memory_gib) == (drawing().seconds_per_item, drawing().memory_gib)
    seconds = [one.seconds_per_item or 0.0 for one in (square, wide)]
    assert both.seconds_per_item == pytest.approx(sum(seconds) / 2)
    assert (both.memory_gib or 0.0) == (wide.memory_gib or 0.0) > (square.memory_gib or 0.0)
    assert plan("1536x1024").block_bytes == pytest.approx(1.5 * plan().block_bytes)
    with pytest.raises(InputError, match="992x1024"):
        plan("1000x1024")


def test_the_24gb_preset_fits_where_the_other_does_not():
    card = Cluster(gpus=1, gpu_type="rtx4090")
    with pytest.raises(InputError, match=r"takes 36\.7 GiB.*23\.6"):
        estimate(FLUX, card)
    placement = estimate(FLUX_24GB, card).placement
    assert placement is not None
    assert placement.schedule == "staged"
    grounding = grounding_costs(FLUX_24GB.ground.grounded_sam, card.gpu).memory_gib
    for gib in (flux_memory(FLUX_24GB.generate.generator.flux)[0], grounding):
        assert gib is not None
        assert gib < card.gpu.memory_gib - 2


def test_eight_h100s_hold_both_models_each_and_cost_what_their_hours_cost():
    plan = estimate(FLUX, Cluster(gpus=8, gpu_type="h100", gpu_hour_cost=2.0))
    assert plan.placement is not None
    assert plan.placement.schedule == "streaming"
    assert plan.placement.workers == {"generate_candidates": 8, "ground_objects": 8}
    assert sum(plan.placement.gpus.values()) <= 1
    # 20,000 images of 30 compiled passes of 134.6 ms and a decoding of 91.2 ms; then the check of each.
    seconds = 20_000 * (30 * 0.1346 + 0.0912 + 1 / 8.37 + 0.15 + 3 * 0.162 / 9.75)
    assert plan.placement.hours == pytest.approx(seconds / 8 / 3600, rel=1e-6)
    assert plan.cost == pytest.approx(seconds / 3600 * 2.0, rel=1e-6)


def stages(flux_seconds: float, ground_seconds: float, gib: float) -> list[StageEstimate]:
    return [
        StageEstimate(name, "images", 1, seconds, seconds, "stated", memory_gib=gib, flag=flag)
        for name, seconds, flag in (
            ("generate_candidates", flux_seconds, "generate.workers"),
            ("ground_objects", ground_seconds, "ground.workers"),
        )
    ]


@pytest.mark.parametrize(("gpus", "schedule"), [(1, "staged"), (2, "staged"), (8, "staged"), (32, "streaming")])
def test_gpus_are_divided_only_where_little_of_them_idles(gpus, schedule):
    cluster = Cluster(gpus=gpus, gpu_type="l40s")  # 30 GiB fit alone, not together
    placement = place(stages(31_000, 1_000, 30.0), cluster)
    assert placement.schedule == schedule
    if schedule == "streaming":
        assert placement.workers == {"generate_candidates": 31, "ground_objects": 1}
        assert sum(placement.workers.values()) == gpus
        assert "--generate.workers.count 31" in placement.flags
    assert all(count >= 1 for count in placement.workers.values())
    assert placement.hours >= 32_000 / gpus / 3600 - 1e-9


def asked(name: str, seconds: float, vllm: str = "qwen") -> StageEstimate:
    return StageEstimate(
        name, "prompts", 1, seconds, seconds, "stated", memory_gib=28.0, flag="vlm" if vllm == "qwen" else "", vllm=vllm
    )


def test_stages_that_one_vllm_answers_take_its_memory_once_and_what_the_others_leave():
    drawing = stages(31_000, 1_000, 30.0)[:1]
    both = [*drawing, asked("write_reflections", 900), asked("filter_pairs", 100)]
    placement = place(both, Cluster(gpus=8, gpu_type="h100"))
    assert placement.schedule == "streaming"  # 58 of 79.6 GiB: a vLLM a stage would be 86
    assert placement.workers == {"generate_candidates": 8, "vLLM: qwen": 8}
    assert "--vlm.replicas 8 --vlm.gpus 0.25 --vlm.gpu-memory 0.52" in placement.flags  # .9 - 30 / 79.6
    assert placement.hours == pytest.approx(32_000 / 8 / 3600)


def test_a_vllm_alone_on_its_gpus_gets_what_models_may_fill():
    both = [*stages(16_000, 1, 60.0)[:1], asked("write_reflections", 16_000)]
    placement = place(both, Cluster(gpus=8, gpu_type="h100"))
    assert placement.workers == {"generate_candidates": 4, "vLLM: qwen": 4}
    assert "--vlm.replicas 4 --vlm.gpus 1" in placement.flags
    assert "gpu-memory" not in placement.flags
    assert FLUX.vlm.gpu_memory == 0.9


def test_two_vllms_share_what_others_leave():
    both = [asked("write_reflections", 900), asked("filter_pairs", 100, vllm="other")]
    placement = place(both, Cluster(gpus=1, gpu_type="h100"))
    assert placement.schedule == "streaming"
    assert placement.flags == "--schedule streaming --vlm.gpu-memory 0.54"  # .9 less 28 GiB of the other's


def test_a_search_s_plan_leaves_its_vllm_room_beside_flux():
    search = catalogue.load("flux", "search")
    plan = estimate(search, Cluster(gpus=8, gpu_type="h100"), num_searches=100)
    assert plan.placement is not None
    flags = plan.placement.flags
    assert "--vlm.gpus 0.4 --vlm.gpu-memory 0.43" in flags
    assert "--workers.count 8 --workers.gpus 0.6" in flags
    assert search.vlm.gpu_memory == 0.43


def test_a_search_whose_vllms_do_not_fit_beside_flux_gets_gpus_for_them():
    plan = estimate(PAPER, Cluster(gpus=16, gpu_type="l40s"), num_searches=100)
    assert plan.placement is not None
    assert plan.placement.workers["draft_round"] == 14
    flags = plan.placement.flags
    for vlm in ("tools.critic.vlm.reflector-vlm", "vlm"):
        assert f" --{vlm}.gpus 1 --{vlm}.gpu-memory 0.9 --{vlm}.replicas 1" in flags
    beside = estimate(PAPER, Cluster(gpus=16, gpu_type="h100"), num_searches=100).placement
    assert beside is not None
    assert beside.workers["draft_round"] == 16
    assert " --tools.critic.vlm.reflector-vlm.gpus 0.4 --tools.critic.vlm.reflector-vlm.gpu-memory 0.47" in beside.flags


def test_a_search_without_room_for_its_vllms_says_so():
    with pytest.raises(InputError, match=r"Reflection-Generator.* have no room on 1 x h100"):
        estimate(catalogue.load("reflectionflow", "search"), Cluster(gpus=1, gpu_type="h100"), num_searches=100)
    alone = estimate(catalogue.load("reflectionflow", "search"), Cluster(gpus=1, gpu_type="h200"), num_searches=100)
    assert alone.placement is not None
    assert "--vlm.gpus 0.2" in alone.placement.flags  # both on the one GPU


def test_more_gpus_never_take_longer():
    hours = [place(stages(31_000, 1_000, 30.0), Cluster(gpus=n, gpu_type="l40s")).hours for n in range(1, 65)]
    assert hours == sorted(hours, reverse=True)


def test_measured_rates_replace_stated_ones(tmp_path):
    from pipelines.run_folder import FORMAT, RunFolder, RunInfo, Segment

    ran = replace(FLUX, num_prompts=8, unit_size=2)
    info = RunInfo(FORMAT, "flux", asdict(ran), 0, 2, "0" * 16, (Segment("rule", 0, 0, 8),), {}, {}, "x", "x")
    folder = RunFolder.create(str(tmp_path / "run"), info, [])
    # Units of 2 prompts, 20 images: 100 s are 5 s an image; one unit was slow.
    seconds = {"generate_candidates": [100.0, 100.0, 900.0], "ground_objects": [4.0, 4.0, 4.0]}
    entries = [{"stage": name, "unit": i, "seconds": s} for name, some in seconds.items() for i, s in enumerate(some)]
    folder.write_checked("stats/host-1-0-0000.json", {"entries": entries})

    plan = estimate(FLUX, Cluster(), folder.storage.uri)
    by_name = {stage.name: stage for stage in plan.stages}
    assert by_name["generate_candidates"].seconds_per_item == pytest.approx(5.0)
    assert by_name["ground_objects"].seconds_per_item == pytest.approx(0.2)
    assert by_name["ground_objects"].source.startswith("measured")
    assert by_name["select_pairs"].source.startswith("stated")

    drawn = FLUX.generate.generator
    more_steps = replace(drawn, flux=replace(drawn.flux, num_steps=60))
    twice_the_steps = replace(FLUX, generate=replace(FLUX.generate, generator=more_steps))
    slower = {s.name: s for s in estimate(twice_the_steps, Cluster(), folder.storage.uri).stages}
    assert slower["generate_candidates"].seconds_per_item == pytest.approx(10.0)


def test_plan_prints_one_json_object_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert plan(["--preset", "flux", "--gpus", "16", "--gpu-type", "a100-80gb", "--json"]) == 2
    value = json.loads(capsys.readouterr().out)
    assert value["cluster"]["gpus"] == 16
    assert value["placement"]["schedule"] == "streaming"
    assert "FLUX.1-dev" in value["missing_weights"]
    assert value["cost"] == pytest.approx(value["gpu_hours"] * 1.60)


def test_a_printed_plan_labels_every_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert plan(["--preset", "flux-24gb"]) == 2
    lines = capsys.readouterr().out.splitlines()
    labelled = [
        line for line in lines if line.startswith(("  generate_candidates", "  ground_objects", "  select_pairs"))
    ]
    assert len(labelled) == 5  # three rates, two memories
    assert all(any(word in line for word in ("stated:", "derived:", "measured:")) for line in labelled)
    assert any("(assumed)" in line for line in lines)


def test_models_on_the_cpu_are_planned_without_a_cluster(capsys, monkeypatch):
    micro = estimate(catalogue.load("micro", "dataset"))
    assert micro.placement is None
    assert micro.cost == 0
    assert [stage.num_items for stage in micro.stages] == [480, 480, 48]


@pytest.mark.parametrize(
    ("preset", "gpus", "kind"),
    [
        ("flux", 1, "h100"),
        ("flux", 8, "h100"),
        ("flux", 8, "h200"),
        ("flux", 8, "a100-80gb"),
        ("flux", 8, "l40s"),
        ("flux", 64, "h100"),
        ("flux-24gb", 1, "rtx4090"),
    ],
)
def test_the_page_on_presets_shows_what_plan_says(preset, gpus, kind, monkeypatch, capsys):
    plan(["--preset", preset, "--gpus", str(gpus), "--gpu-type", kind, "--json"])
    value = json.loads(capsys.readouterr().out)
    images = value["stages"][0]
    row = (
        f"| `{preset}` | {gpus} × {kind} | {images['num_items']:,} | {images['seconds_per_item']:.1f} s | "
        f"{value['placement']['schedule']} | {value['placement']['hours']:.1f} | {value['gpu_hours']:.1f} | "
        f"${value['cost']:,.0f} |"
    )
    page = Path(__file__).parents[2] / "docs" / "presets.md"
    assert row in page.read_text()

"""`search --preset flux` with every class it names, at tiny random sizes on the CPU: GenEval prompts to a score."""

import json

import pytest
import torch

from commands.main import main
from inference.flux.condition_config import ConditionConfig
from inference.flux.conditioning import ConditionedFlux
from inference.flux.corrector import CorrectorDescription, save_corrector
from inference.flux.generator import FluxGenerator
from microworld.family import micro_flux
from tests.support.tiny_judge import save_tiny_clip, save_tiny_mask2former
from tests.support.tiny_models import save_tiny_flux
from tests.support.tiny_vlm import save_tiny_vlm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROMPTS = (
    {"tag": "single_object", "include": [{"class": "person", "count": 1}], "prompt": "a photo of a person"},
    {
        "tag": "colors",
        "include": [{"class": "computer mouse", "count": 1, "color": "red"}],
        "prompt": "a photo of a red computer mouse",
    },
)


def save_tiny_corrector(folder, flux):
    config = micro_flux(str(flux), num_steps=1, size_px=16, text_lengths=(16,))
    condition = ConditionConfig(rank=2, alpha=2.0)
    model = ConditionedFlux(FluxGenerator(config).pipeline.transformer, condition)
    torch.manual_seed(0)
    for parameter in model.lora.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder.mkdir()
    save_corrector(folder, model, CorrectorDescription(condition, 8, str(flux)))
    return folder


def test_the_flux_search_runs_through_with_tiny_weights_and_is_judged_by_geneval_s_kind(tmp_path, capsys):
    flux = save_tiny_flux(tmp_path / "flux")
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    flags = [
        *("--preset", "flux", "--prompts", str(prompts), "--images-per-prompt", "2", "--search.depth", "2", "--quiet"),
        *("--tools.generator.flux.model", str(flux), "--tools.generator.flux.device", "cpu"),
        *("--tools.generator.flux.size-px", "16", "--tools.generator.flux.num-steps", "2"),
        *("--tools.generator.flux.text-lengths", "16", "--tools.generator.flux.dtype", "float32"),
        *("--tools.corrector.flux.lora", str(save_tiny_corrector(tmp_path / "corrector", flux))),
        *("--vlm.model", str(save_tiny_vlm(tmp_path / "vlm")), "--vlm.kind", "in-process", "--vlm.device", "cpu"),
        *("--vlm.dtype", "float32", "--vlm.max-new-tokens", "4", "--vlm.answer-floor", "0"),  # its weights are random
        *("--judge.judge.mask2former.detector", str(save_tiny_mask2former(tmp_path / "detector"))),
        *("--judge.judge.mask2former.clip", str(save_tiny_clip(tmp_path / "clip"))),
        *("--judge.judge.mask2former.device", "cpu"),
    ]
    run = tmp_path / "run"
    assert main(["search", "--run", str(run), *flags]) == 0, capsys.readouterr()
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert summary["num_searches"] == 4
    assert "not GenEval's own" in summary["judge"]
    assert summary["cost"]["generations"] == 4 * 2 * 2
    lines = (run / "evaluation" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["filename"] for line in lines][:3] == [
        f"geneval/{name}.png" for name in ("00000/samples/0000", "00000/samples/0001", "00001/samples/0000")
    ]
    assert main(["verify", "--run", str(run), "--deep"]) == 0

"""A tiny random FLUX and VLM that teach each other in tests, on the CPU in a moment."""

from pathlib import Path
from typing import Any

from inference.dual.concept import Concept, QuestionAnswer, concept_of
from inference.flux.generator import FluxGenerator, FluxGeneratorConfig
from microworld.family import micro_flux
from microworld.training.vlm_model import build_processor, build_vlm
from tests.support.tiny_models import save_tiny_flux
from tests.support.tiny_vlm import TINY_SHAPE, tiny_tokenizer
from trainers.denoiser_config import DenoiserConfig
from trainers.dual_process import DualProcess
from trainers.dual_process_config import DualProcessConfig
from trainers.flux_denoiser import FluxDenoiser
from trainers.vqa_loss import TeacherConfig, VqaTeacher

QUESTION = QuestionAnswer("Is there a red star?")


def tiny_flux_config(folder: Path, num_steps: int = 2) -> FluxGeneratorConfig:
    return micro_flux(model=str(folder), num_steps=num_steps, size_px=16, text_lengths=(16,), batch_size=2)


def tiny_denoiser(folder: Path, num_steps: int = 2) -> FluxDenoiser:
    return FluxDenoiser(FluxGenerator(tiny_flux_config(folder, num_steps)))


def tiny_teacher(seed: int = 0, **settings: Any) -> VqaTeacher:
    """settings: of its `TeacherConfig`."""
    import torch

    torch.manual_seed(seed)
    model, processor = build_vlm(tiny_tokenizer(), TINY_SHAPE), build_processor(tiny_tokenizer())
    return VqaTeacher.of(model, processor, TeacherConfig(**settings))


def tiny_concept(name: str = "star") -> Concept:
    return concept_of(name, "a photo of a red star", [QUESTION])


def tiny_training(folder: Path, **changes) -> DualProcessConfig:
    """Few steps of a random FLUX in `folder`, which no random VLM will be pleased with."""
    settings = {
        "generator": DenoiserConfig(flux=tiny_flux_config(folder)),
        "teacher": TeacherConfig("micro/vlm"),
        "rank": 4,
        "steps": 6,
        "batch_size": 2,
        "num_evaluated": 2,
        "learning_rate": 1e-3,
        "stop_after": 0,
        "min_probability": 0.0,
        "min_rise": -1.0,
        "hopeless_after": 0,
        "checkpoint_every": 2,
    }
    return DualProcessConfig(**{**settings, **changes})


def tiny_dual_process(folder: Path, **changes) -> DualProcess:
    """Saves the FLUX in `folder` where it is not there yet."""
    if not folder.exists():
        save_tiny_flux(folder)
    config = tiny_training(folder, **changes)
    return DualProcess(config, tiny_denoiser(folder), tiny_teacher())

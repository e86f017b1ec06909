"""The micro recipes' trainings on given data, as tests start from."""

from dataclasses import replace
from pathlib import Path

from recipes import micro, micro_gpu
from trainers.corrector import CorrectorTrainingConfig
from trainers.reflector import ReflectorTrainingConfig
from trainers.verifier import VerifierTrainingConfig


def micro_corrector_training(data: str, out: Path) -> CorrectorTrainingConfig:
    return replace(micro.corrector_training(), data=data, out=out)


def micro_gpu_corrector_training(data: str, out: Path) -> CorrectorTrainingConfig:
    return replace(micro_gpu.corrector_training(), data=data, out=out)


def micro_verifier_training(data: str, out: Path) -> VerifierTrainingConfig:
    return replace(micro.verifier_training(), data=data, out=out)


def micro_reflector_training(data: str, out: Path) -> ReflectorTrainingConfig:
    return replace(micro.reflector_training(), data=data, out=out)

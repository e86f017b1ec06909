"""What `plan` says of models that stand in no figure: bytes of their files, or that a pilot tells."""

from dataclasses import replace

import pytest

from inference.grounding.sam2 import Sam2Config
from inference.grounding.segmenter import SegmenterConfig
from inference.rewards.hpsv3 import Hpsv3Config
from inference.rewards.own import OwnRewardConfig
from inference.rewards.reward import RewardConfig
from inference.rewards.vqa_score import VqaScoreConfig
from inference.verifier import VerifierConfig
from inference.vlm.vlm import VlmConfig
from pipelines import stated_figures as stated
from pipelines.model_costs import grounding_costs, reward_costs, verifier_gib
from pipelines.stage import UNKNOWN
from recipes import flux

GPU = stated.GPUS["h100"]
GIB = 2**30


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "HPSv3.safetensors").write_bytes(b"\0" * 2**20)
    (tmp_path / "README.md").write_bytes(b"\0" * 2**20)
    return tmp_path


def test_a_reward_of_another_kind_takes_what_its_files_do(folder):
    hps = RewardConfig(kind="hpsv3", hpsv3=Hpsv3Config(str(folder), base="nowhere/qwen"))
    allowance = stated.REWARDS_WORKING_GIB + stated.CUDA_CONTEXT_GIB
    costs = reward_costs([hps], GPU)
    assert costs.seconds is None
    assert "run a pilot" in costs.source
    assert costs.memory_gib == pytest.approx(2**20 / GIB + allowance)
    asked = RewardConfig(kind="vqa-score", vqa_score=VqaScoreConfig(VlmConfig()))  # a vLLM's, counted there
    own = RewardConfig(kind="own", own=OwnRewardConfig("mine:make"))
    assert reward_costs([hps, asked, own], GPU).memory_gib == costs.memory_gib
    assert reward_costs([hps, replace(hps, hpsv3=Hpsv3Config("nowhere/hps"))], GPU).memory_gib is None
    assert reward_costs([hps], None) == UNKNOWN
    assert verifier_gib(VerifierConfig(("rewards",), rewards=(hps,))) == pytest.approx(2**20 / GIB + allowance - 0.6)


def test_clips_cost_what_they_did():
    costs = reward_costs(flux.rewards(), GPU)
    assert costs.seconds == stated.REWARD_SECONDS
    assert costs.memory_gib == pytest.approx(stated.REWARDS * 2 / GIB + 1.5 + 0.6)


def test_a_segmenter_of_another_kind_is_known_by_its_files_alone(folder):
    sam2 = SegmenterConfig("sam2", sam2=Sam2Config("nowhere/sam"))
    assert grounding_costs(replace(flux.grounding(), segmenter=sam2).only_what_is_used(), GPU) == UNKNOWN
    dino = flux.grounding().detector.dino
    assert dino is not None
    there = replace(dino, model=str(folder), text_encoder="")
    grounding = replace(flux.grounding(), segmenter=SegmenterConfig("sam2", sam2=Sam2Config(str(folder))))
    grounding = replace(grounding, detector=replace(grounding.detector, dino=there))
    grounding = replace(grounding, color=replace(grounding.color, kind="pixels")).only_what_is_used()
    costs = grounding_costs(grounding, GPU)
    assert costs.seconds is None
    assert costs.memory_gib is not None
    assert costs.memory_gib < 6
    assert "bytes of their files" in costs.memory_source

"""A checkpoint's training: what may change when it goes on, and the names that older versions gave its settings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from microworld.family import micro_generator
from schemas.errors import InputError
from trainers.corrector import CorrectorTrainingConfig
from trainers.optimizer import OptimizerConfig
from trainers.reflector import ReflectorConfig, ReflectorTrainingConfig
from trainers.same_training import check_same, settings_of
from trainers.shard_encoder import EncodingConfig
from trainers.verifier import RewardModelConfig, VerifierTrainingConfig

DATA, OUT = "s3://b/run", Path("out")
# As the version before resumable fields wrote them in checkpoints, of each trainer's defaults.
STORED = json.loads((Path(__file__).parents[1] / "golden" / "training_settings.json").read_text())
GENERATOR = micro_generator(text_lengths=(16, 32, 48))  # then the default: texts were cut at 48 tokens
DEFAULTS = {
    "corrector": CorrectorTrainingConfig(data=DATA, generator=GENERATOR),
    "verifier": VerifierTrainingConfig(data=DATA),
    "reflector": ReflectorTrainingConfig(data=DATA, model=ReflectorConfig(right_share=0.0)),
}


def stored(trainer):
    return {name: tuple(value) if isinstance(value, list) else value for name, value in STORED[trainer].items()}


@pytest.mark.parametrize("trainer", DEFAULTS)
def test_a_checkpoint_of_an_older_version_is_gone_on_from(trainer):
    config = DEFAULTS[trainer]
    check_same(settings_of(config), stored(trainer), OUT)
    changed = settings_of(replace(config, optimizer=OptimizerConfig(config.optimizer.name, 0.5)))
    with pytest.raises(InputError, match=r"optimizer.learning_rate was .*, is 0.5"):
        check_same(changed, stored(trainer), OUT)


def test_how_long_how_often_where_and_with_how_much_memory_may_change():
    for config in DEFAULTS.values():
        loop = replace(
            config.loop,
            steps=7,
            micro_batch=3,
            export="best",
            evaluate_every=1,
            checkpoint_every=1,
            keep_last=1,
            report_every=1,
            read_every=5,
            loader_workers=0,
        )
        others = replace(config, out=Path("elsewhere"), loop=loop, bf16=False, num_evaluated=3, recompute=True)
        assert settings_of(others) == settings_of(config)
        assert settings_of(replace(config, loop=replace(loop, seed=1))) != settings_of(config)
    corrector = DEFAULTS["corrector"]
    encode = EncodingConfig(keep_on="disk", batch_size=2, threads=1, cache=Path("cache"))
    drawn = corrector.generator.with_batch_size(2)
    others = replace(corrector, encode=encode, generator=drawn, compile="whole", compiled_rows=4)
    assert settings_of(others) == settings_of(corrector)
    verifier = replace(DEFAULTS["verifier"], model=RewardModelConfig(device="cuda"))
    assert settings_of(verifier) == settings_of(DEFAULTS["verifier"])
    reflector = replace(DEFAULTS["reflector"], model=ReflectorConfig(right_share=0.0, device="cuda"), num_written=1)
    assert settings_of(reflector) == settings_of(DEFAULTS["reflector"])


def test_a_reflectors_older_checkpoint_saw_no_right_images_and_says_so():
    with pytest.raises(InputError, match=r"model.right_share was 0.0, is 0.1"):
        check_same(settings_of(ReflectorTrainingConfig(data=DATA)), stored("reflector"), OUT)


def test_what_was_the_generators_is_flux_own():
    old = {"data": "d", "generator.model": "micro/flux", "generator.num_steps": 4}
    new = {
        "data": "d",
        "generator.kind": "flux",
        "generator.flux.model": "micro/flux",
        "generator.flux.num_steps": 4,
        "generator.pipeline.model": "some/model",  # of a kind that is not used
    }
    check_same(new, old, OUT)
    check_same(old, old, OUT)
    with pytest.raises(InputError, match=r"generator.flux.num_steps was 4, is 8"):
        check_same(new | {"generator.flux.num_steps": 8}, old, OUT)
    with pytest.raises(InputError, match=r"generator.kind was flux, is pipeline"):
        check_same(new | {"generator.kind": "pipeline"}, old, OUT)
    with pytest.raises(InputError, match=r"generator.flux.guidance was 3.0, is None"):
        check_same(new, old | {"generator.guidance": 3.0}, OUT)

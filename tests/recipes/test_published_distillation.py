"""`schnell`, `dev` and `sana` teach with the published configuration, where no difference is named."""

import pytest
import yaml

from recipes import catalogue

# g-luo/dual_process: base.yaml, pipe/*.yaml and what its loader sets, by our fields.
BASE = """
steps: 100
batch_size: 1
num_seeds: 100
first_seed: 100
evaluation_seed: 0
weight_decay: 0
max_gradient_norm: 1.0
rank: 16
learning_rate: 5e-5
teacher: {question_postfix: Answer with Yes or No., pixel_range: min-max, dtype: bfloat16}
"""
FLUX = "{size_px: 512, guidance: 0, text_lengths: [512], dtype: bfloat16, true_cfg_scale: 1.0, num_steps: "
PIPES = {
    "schnell": FLUX + "1, shift: 0.0, model: black-forest-labs/FLUX.1-schnell}",  # its scheduler's shift is static
    "dev": FLUX + "28, shift: 3.0, model: black-forest-labs/FLUX.1-dev}",
    "flux": FLUX + "28, shift: 3.0, model: black-forest-labs/FLUX.1-dev}",
    "sana": "{size_px: 512, guidance: 4.5, num_steps: 20, model: Efficient-Large-Model/Sana_1600M_512px_diffusers}",
}


def check(config, published):
    for name, value in published.items():
        said = getattr(config, name)
        if isinstance(value, dict):
            check(said, value)
        else:
            assert said == (tuple(value) if isinstance(value, list) else value), name


@pytest.mark.parametrize("preset", PIPES)
def test_hyperparameters_are_the_published_ones(preset):
    config = catalogue.load(preset, "dual_process")
    base = yaml.safe_load(BASE) | {"learning_rate": 5e-6 if preset == "sana" else 5e-5}
    check(config, base)
    check(config.generator.used, yaml.safe_load(PIPES[preset]))
    assert config.alpha_per_rank == 5.0  # the paper's: "alpha that is 5x the rank"

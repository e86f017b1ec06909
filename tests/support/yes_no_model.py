"""A model with code of its own in its folder, as NVILA has: `generate_content([image, text]) -> (answer, scores)`.
Importing its code writes the file `went_off` beside it."""

import json
from pathlib import Path

CODE = '''
from pathlib import Path

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

(Path(r"{folder}") / "went_off").touch()


class YesNoConfig(PretrainedConfig):
    model_type = "yes_no_of_tests"


class Tokenizer:
    def encode(self, text, add_special_tokens=True):
        return ([1] if add_special_tokens else []) + {{"yes": [3, 9], "no": [5]}}[text]


class YesNoModel(PreTrainedModel):
    config_class = YesNoConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.tokenizer = Tokenizer()
        self.asked = []
        self.post_init()

    def generate_content(self, content):
        """Yes to images that are bright; the logits are the mean red and, of no, the mean green, less 100."""
        image, text = content
        self.asked.append(text)
        pixels = np.asarray(image, dtype=np.float32)
        scores = torch.full((1, 12), -1e4)
        scores[0, 3], scores[0, 5] = float(pixels[..., 0].mean()) - 100, float(pixels[..., 1].mean()) - 100
        return ("yes" if pixels[..., 2].mean() > 127 else "no"), (scores,)
'''


def write_yes_no_model(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "modeling_yes_no.py").write_text(CODE.format(folder=folder))
    auto = {"AutoConfig": "modeling_yes_no.YesNoConfig", "AutoModel": "modeling_yes_no.YesNoModel"}
    config = {"model_type": "yes_no_of_tests", "architectures": ["YesNoModel"], "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"weight": torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder

"""What the published Image-Verifier's code computes, on transformers 4.51.3 and peft 0.15.2, whose classes it is made
of: the numbers in tests/golden/image_verifier.json. Nothing here runs under this project's own versions. To make them
again, with those two in an environment of their own:

    python -m tests.support.published_verifier
"""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import nn

from tests.support.reward_checkpoints import CASES, MAX_PIXELS, PROMPTS, Case, write_case

GOLDEN = Path(__file__).parent.parent / "golden" / "image_verifier.json"
TOKEN = "<|VQ_reward|>"


class RewardModel(transformers.Qwen2_5_VLForConditionalGeneration):
    """The text model is given no positions, and counts them itself."""

    def __init__(self, config: Any, output_dim: int = 1) -> None:
        super().__init__(config)
        self.rm_head = nn.Linear(config.hidden_size, output_dim, bias=False)

    def forward(self, input_ids: Any, attention_mask: Any, pixel_values: Any, image_grid_thw: Any) -> Any:  # pyright: ignore
        this: Any = self
        embeds = this.model.embed_tokens(input_ids)
        pictures = this.visual(pixel_values, grid_thw=image_grid_thw)
        places = (input_ids == this.config.image_token_id).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(places, pictures)
        return this.rm_head(this.model(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False)[0])


def load(root: Path, case: Case) -> tuple[Any, Any]:
    import peft
    from safetensors.torch import load_file

    processor: Any = transformers.AutoProcessor.from_pretrained(root / "base", padding_side="right")
    model: Any = RewardModel.from_pretrained(root / "base", output_dim=case.output_dim)
    if case.special:
        processor.tokenizer.add_special_tokens({"additional_special_tokens": [TOKEN]})
        model.resize_token_embeddings(len(processor.tokenizer))
    if case.lora:
        layers = [
            name
            for name, layer in model.named_modules()
            if isinstance(layer, (nn.Linear, nn.Embedding)) and not any(word in name for word in case.excluded)
        ]
        model = peft.get_peft_model(
            model,
            peft.LoraConfig(r=case.rank, lora_alpha=case.alpha, target_modules=layers, use_rslora=case.rslora),
        )
    checkpoint, state = root / "verifier" / "checkpoint-120", model.state_dict()
    if case.whole:
        model.load_state_dict(torch.load(checkpoint / "model.pth", weights_only=True))
        return model.eval(), processor
    state |= torch.load(checkpoint / "non_lora_state_dict.pth", weights_only=True)
    adapter = checkpoint / "adapter_model.safetensors"
    for name, value in (load_file(adapter) if adapter.exists() else {}).items():
        before, found, behind = name.partition("lora_")
        part, dot, rest = behind.partition(".")
        state[f"{before}{found}{part}.default{dot}{rest}" if found else name] = value
    model.load_state_dict(state)
    return model.eval(), processor


def resized(image: Image.Image) -> Image.Image:
    high, wide = (max(28, round(side / 28) * 28) for side in (image.height, image.width))
    if high * wide > MAX_PIXELS:
        by = math.sqrt(image.height * image.width / MAX_PIXELS)
        high, wide = (math.floor(side / by / 28) * 28 for side in (image.height, image.width))
    elif high * wide < 3136:
        by = math.sqrt(3136 / (image.height * image.width))
        high, wide = (math.ceil(side * by / 28) * 28 for side in (image.height, image.width))
    return image.resize((wide, high))


def scores(root: Path, case: Case) -> list[list[float]]:
    """For each prompt, of each image."""
    model, processor = load(root, case)
    images = [resized(Image.open(path).convert("RGB")) for path in sorted((root / "images").iterdir())]
    return [[score(model, processor, case, image, prompt) for image in images] for prompt in PROMPTS]


def score(model: Any, processor: Any, case: Case, image: Image.Image, prompt: str) -> float:
    content = [{"type": "image"}, {"type": "text", "text": case.template.format(text_prompt=prompt)}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[image], padding=True, return_tensors="pt")
    with torch.no_grad():
        (outputs,) = model(**inputs)
    if case.special:
        at = inputs["input_ids"][0] == processor.tokenizer.convert_tokens_to_ids(TOKEN)
        raw = outputs[at].diagonal()[0]
    else:
        raw = outputs[-1, 0] if case.pooling == "last" else outputs[:-1, 0].mean()
    mean, std = case.norm or (0.0, 1.0)
    return (float(raw) - mean) / std


def main() -> None:
    assert transformers.__version__ == "4.51.3", transformers.__version__
    found = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = scores(write_case(Path(folder) / "case", case), case)
        print(name, [round(one, 3) for one in found[name][0]], flush=True)
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Figures that a plan starts from, each with its source. Parameter counts are checked against the real architectures by
`tests/pipelines/test_stated_figures.py`; everything else is replaced by a run's own rates as soon as there are some."""

from dataclasses import dataclass

from schemas.image_size import ImageSize

GIB = 2**30

# Parameters of each component (built without weights and counted by a test).
FLUX_TRANSFORMER = 11_901_408_320
FLUX_MODULATION = 19 * 2 * (3072 + 1) * 6 * 3072 + 38 * (3072 + 1) * 3 * 3072
"""The part of the transformer that fp8_dynamic leaves as it is (embedders and norms are a hundredth of that)."""
FLUX_T5 = 4_762_310_656
FLUX_CLIP = 123_060_480
FLUX_VAE = 83_819_683
GROUNDING_DINO_SWIN_T = 172_839_682
SAM_VIT_H = 641_090_608

CLIP_VIT_L = 427_616_513
REWARDS = 2 * 986_109_441 + CLIP_VIT_L
QWEN_7B = 8_292_166_656
QWEN_3B = 3_754_622_976
VLM_PARAMETERS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": QWEN_3B,
    "Qwen/Qwen2.5-VL-7B-Instruct": QWEN_7B,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33_452_718_336,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73_410_777_344,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "Qwen/Qwen3-VL-32B-Instruct": 33_357_390_064,
    "OpenGVLab/InternVL3-1B-hf": 938_119_296,
    "OpenGVLab/InternVL3-2B-hf": 2_088_883_712,
    "OpenGVLab/InternVL3-8B-hf": 7_944_300_032,
    "OpenGVLab/InternVL3-14B-hf": 15_117_182_976,
    "OpenGVLab/InternVL3-38B-hf": 38_388_164_992,
    "OpenGVLab/InternVL3_5-8B-HF": 8_528_244_736,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-12b-it": 12_187_325_040,
    "google/gemma-3-27b-it": 27_432_406_640,
}
"""Of VLMs by hub id, for those that are not on this machine: of one that is, its files say it."""

FLUX_PASS_TFLOP = 74.4
"""One forward pass at 1024 px with 512 text tokens (published)."""
TEXT_TOKENS = 512
"""Of a text, for classes that do not say how long it is."""
FLUX_TOKENS = 4096 + TEXT_TOKENS
FLUX_ATTENTION_TFLOP = 57 * 4 * FLUX_TOKENS**2 * 3072 / 1e12
"""The part of it that grows with the square of the tokens: 57 blocks, 3072 wide, two products of n x n x d."""

FLUX_WORKING_GIB = 36.166 - 31.447
"""Peak less loaded memory at 1024 px, one image (Hugging Face, "Exploring Quantization Backends", H100)."""
SAM_WORKING_GIB = 4 * 16 * 4096**2 * 4 / GIB
"""An image in ViT-H: four float32 copies of a global block's 16 attention maps of 4096 x 4096 (derived)."""
DINO_WORKING_GIB = 0.8
"""An image at 800 px in GroundingDINO Swin-T (allowance, not measured)."""
COLOR_WORKING_GIB = 0.5
"""A batch of 32 crops in CLIP ViT-L/14, float32 (allowance, not measured)."""
REWARDS_WORKING_GIB = 1.5
"""A batch of 16 images in CLIP ViT-H (allowance, not measured)."""
JUDGE_GIB = 4.0
"""Mask2Former Swin-S and CLIP ViT-L/14 in float32, and a batch of four (allowance)."""
CONDITION_PX = 512
"""Side of the flawed image as the published corrector is shown it."""
VLM_CACHE_GIB = 12.0
"""vLLM's key-value cache and activations beside a 7B model (allowance; vLLM takes what it is given)."""
CUDA_CONTEXT_GIB = 0.6
"""Of every process on a GPU (allowance)."""

QUANTIZATION_SLOWDOWN = {"none": 1.0, "fp8": 13 / 12, "fp8_dynamic": 1.0, "int8": 27 / 12}
"""Seconds against bf16 (same page: 13 s layer-wise fp8, 27 s bitsandbytes int8, 12 s bf16; fp8_dynamic: a bound)."""
COMPILED_SHARE = {"none": 134.6 / 183.7, "fp8_dynamic": 103.9 / 183.7}
"""Of an eager pass's time, with compiled blocks (measured on an H100: benchmarks/results/gpu_flux_first.json; the
second run says 134.3 of 186.3)."""
DECODE_PASSES = 91.2 / 183.7
"""Eager passes that the VAE's decoding takes (measured there too: 91 ms at 1024 px)."""
OFFLOAD_SECONDS = {"none": 0.0, "model": 5.0, "sequential": 60.0}
"""Seconds more an image: moving whole models (same page, 17 s against 12 s); single layers (allowance)."""
GROUNDING_SECONDS = 1 / 8.37 + 0.15
"""GroundingDINO-T 8.37 images/s (its paper, appendix I) and SAM ViT-H 0.15 s (segment-anything.com), both A100."""
COLOR_SECONDS = 3 * 0.162 / (0.5 * 19.5)
"""Naming colours: three objects an image (assumption) at 162 GFLOP each (its 81 G multiply-adds at 224 px) in CLIP
ViT-L/14, float32 at half of an A100's 19.5 TFLOP/s."""
REWARD_SECONDS = 0.01
CONDENSE_SECONDS = 0.05
CAPTION_SECONDS = 0.1
READ_SECONDS = 0.1
REFLECT_SECONDS = 0.4
FILTER_SECONDS = 0.1
JUDGE_SECONDS = 0.1
"""Of an image (rewards, judge) or a prompt of the stages whose speed nobody has published (assumptions: a 7B model
under vLLM writes some 2,000 tokens a second for many requests together)."""
QUESTIONS_AN_IMAGE = 5
"""That a VLM which judges is asked (assumption: GenEval 2's prompts have 3 to 10 atoms)."""
ATOMS_ASK_SHARE = 0.17
"""Of the images that the critic `atoms` looks at, those that it asks a VLM about (the micro models on hard prompts: .73
of 4.3 a search, benchmarks/results/atoms_hard_dev.json); of prompts that are questions, nearly all."""
PNG_SECONDS = 0.35
"""Packing one 1024 px image as PNG, one core (measured with schemas/images.py)."""

PNG_BYTES_PER_PIXEL = 1.5
JPEG_BYTES_PER_PIXEL = 0.6
"""Quality 95, no chroma subsampling (both: allowance for photographs)."""
KEPT_SHARE = 0.4
"""Prompts of middling difficulty, so that pairs come of them (assumption; a pilot run tells)."""


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU. bf16_tflops: dense peak of the data sheet. hour_cost: US dollars, an assumption to override."""

    memory_gib: float
    bf16_tflops: float
    hour_cost: float
    pass_seconds: float
    pass_source: str


_A100_USE = 74.4 / (15.65 / 28) / 312
"""Share of its peak that an A100 reaches; taken for cards of which no trustworthy figure was found."""


def _like_a100(memory_gib: float, bf16_tflops: float, hour_cost: float) -> Gpu:
    source = f"derived: 74.4 TFLOP at {_A100_USE:.0%} of {bf16_tflops:.0f} TFLOP/s, the share an A100 reaches"
    return Gpu(memory_gib, bf16_tflops, hour_cost, FLUX_PASS_TFLOP / (_A100_USE * bf16_tflops), source)


GPUS: dict[str, Gpu] = {
    "h100": Gpu(79.6, 989, 2.50, 0.1837, "measured: 184 ms a pass, diffusers eager, torch 2.11 (gpu_flux_first.json)"),
    "h200": Gpu(139.8, 989, 3.50, 0.1837, "derived: as on an H100, which has the same arithmetic"),
    "a100-80gb": Gpu(79.3, 312, 1.60, 15.65 / 28, "stated: FLUX.1-dev 1024 px, 28 steps in 15.65 s, bf16 eager, A100"),
    "l40s": _like_a100(44.7, 362, 1.00),
    "rtx4090": _like_a100(23.6, 165, 0.45),
}


def flux_pass_tflop(size: ImageSize, text_tokens: int, condition_px: int = 0) -> float:
    """TFLOP of one forward pass: the linear part grows with the tokens, attention with their square. condition_px: side
    of a square of as many tokens as show the flawed image."""
    tokens = (size.width // 16) * (size.height // 16) + (condition_px // 16) ** 2 + text_tokens
    share = tokens / FLUX_TOKENS
    return (FLUX_PASS_TFLOP - FLUX_ATTENTION_TFLOP) * share + FLUX_ATTENTION_TFLOP * share**2

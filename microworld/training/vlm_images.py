"""Images that the VLM learns on, with what they show: fresh renders, and pools of VAE'd, of generated and of corrected
ones (what the corrector draws from the generator's wrong drawings: a search sees more of them than of any others).

A pool lives on disk in chunks (`chunk_000.npz`, written atomically), made once before the training. Generated images
are read by `pixel_scorer.read_scene`; what they show is what was read, whatever the caption had asked for, and what is
no clear shape counts as nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inference.flux.latents import to_images, to_pixels
from inference.sound_weights import sound_weights
from microworld.family import micro_flux
from microworld.scenes.captions import (
    COLORED_RELATION,
    TRAINING_WEIGHTS,
    Caption,
    Clause,
    caption_from_clauses,
    sample_scene,
    sample_training_caption,
)
from microworld.scenes.corrections import corrections
from microworld.scenes.instructions import instruction
from microworld.scenes.long_captions import LONG, caption_of_text, sample_long_caption
from microworld.scenes.world import MAX_OBJECTS, Background, Scene, SceneObject, random_scene, render
from microworld.training.grounding_data import AugmentationConfig, degrade
from microworld.training.made_ahead import MadeAhead
from microworld.training.pixel_scorer import read_scene
from microworld.training.training_loop import MicroTrainingConfig
from schemas.atomic_file import replacing

if TYPE_CHECKING:
    from inference.flux.corrector import FluxCorrector
    from inference.flux.generator import FluxGenerator

_AUGMENTATION = AugmentationConfig()
SEEDS_PER_CAPTION = 4
CORRECTIONS_PER_DRAWING = 2
TOLD_TRUE_SHARE = 0.7  # of the drawings that are corrected: by what is wrong with them; the others by what is not
LONG_SHARE = 0.2  # of the drawn captions
GPU_CHUNK, GPU_PART = 4000, 200  # images of a chunk that a GPU draws, and of what one process reads
# Soft IoU by which a drawn thing must be one shape rather than any other. Of a search's drawings on the hard dev
# prompts that the scorer takes for right, the judge passes .93 of those above, .63 of those below.
CLEAR_MARGIN = 0.03
CPU_BATCH, GPU_BATCH = 32, 512  # images a forward pass


@dataclass(frozen=True)
class PooledImage:
    """image uint8 (32, 32, 3), its scene, and the caption it was made for (which a generated one may fail)."""

    image: np.ndarray
    scene: Scene
    caption: Caption


Draw = Callable[[np.random.Generator, int], tuple[list[Caption], list[np.ndarray]]]
"""About so many images, with the captions that they were drawn for."""
Make = Callable[[np.random.Generator, int], list[PooledImage]]
"""About so many, with what they show."""


def scene_to_json(scene: Scene) -> dict[str, object]:
    return dataclasses.asdict(scene)


def scene_from_json(values: dict) -> Scene:
    objects = tuple(SceneObject(**item) for item in values["objects"])
    ground = values["background"]
    background = Background(ground["kind"], tuple(ground["top"]), tuple(ground["bottom"]), ground["horizon_px"])
    return Scene(background, objects)


def caption_to_json(caption: Caption) -> dict[str, object]:
    if caption.tag == LONG:
        return {"tag": LONG, "text": caption.text}
    return {"tag": caption.tag, "clauses": [dataclasses.asdict(clause) for clause in caption.clauses]}


def caption_from_json(values: dict) -> Caption:
    if values["tag"] == LONG:
        return caption_of_text(values["text"])
    clauses = tuple(
        Clause(**{**clause, "relation": tuple(clause["relation"]) if clause["relation"] else None})
        for clause in values["clauses"]
    )
    return caption_from_clauses(values["tag"], clauses)


def write_images(path: Path, items: Sequence[PooledImage]) -> None:
    """A chunk, whole or not at all."""
    records = [{"scene": scene_to_json(m.scene), "caption": caption_to_json(m.caption)} for m in items]
    images = np.stack([m.image for m in items]) if items else np.zeros((0, 32, 32, 3), np.uint8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, images=images, records=np.frombuffer(json.dumps(records).encode(), np.uint8))


class ImagePool:
    """Chunks of `PooledImage` in a folder. `make(rng, size)` makes the images of one chunk."""

    def __init__(
        self,
        folder: Path,
        make: Make,
        seed: int,
        workers: int = 0,
    ) -> None:
        """workers: processes that make chunks."""
        self._folder, self._make, self._seed, self._workers = folder, make, seed, workers
        folder.mkdir(parents=True, exist_ok=True)
        self._num_chunks = 0
        self.items: list[PooledImage] = []
        for path in sorted(folder.glob("chunk_*.npz")):
            self._add(path)

    def __len__(self) -> int:
        return len(self.items)

    def grow_to(self, size: int, chunk: int) -> None:
        """Make chunks of `chunk` tries until `size` images are there; prints a line each."""
        if len(self) >= size:
            return
        made = MadeAhead(
            lambda number: self._make(np.random.default_rng([self._seed, 78, number]), chunk),
            self._workers,
            first=self._num_chunks,
            ahead=1,
        )
        while len(self) < size:
            images = made.next()
            path = self._folder / f"chunk_{self._num_chunks:03d}.npz"
            write_images(path, images)
            self._add(path)
            print(f"{len(self)} of {size} images in {self._folder.name}", flush=True)
            if not images:
                return  # a generator that draws no clean shape yet: do without

    def _add(self, path: Path) -> None:
        with np.load(path) as arrays:
            records = json.loads(arrays["records"].tobytes())
            images = arrays["images"]
        self.items += [
            PooledImage(image, scene_from_json(r["scene"]), caption_from_json(r["caption"]))
            for image, r in zip(images, records, strict=True)
        ]
        self._num_chunks += 1

    def hold_out(self, number: int) -> list[PooledImage]:
        """Take the last `number` images (never half of a prompt's two) out of the pool: for evaluation alone."""
        cut = max(0, len(self.items) - number)
        while 0 < cut < len(self.items) and self.items[cut].caption == self.items[cut - 1].caption:
            cut -= 1
        held, self.items = self.items[cut:], self.items[:cut]
        return held

    def draw(self, rng: np.random.Generator) -> PooledImage:
        return self.items[int(rng.integers(len(self.items)))]


def fresh_images(rng: np.random.Generator, size: int) -> list[PooledImage]:
    """`size` clean renders: half of them scenes of training captions, half of any objects."""
    captions = [sample_training_caption(rng) for _ in range(size)]
    scenes = [sample_scene(rng, c, 0.2) if rng.random() < 0.5 else random_scene(rng) for c in captions]
    return [
        PooledImage(image, scene, caption)
        for image, scene, caption in zip(render(scenes).images, scenes, captions, strict=True)
    ]


def render_like_met(rng: np.random.Generator, scenes: Sequence[Scene], degraded_share: float) -> np.ndarray:
    """uint8 (B, 32, 32, 3): renders, of which a share is blurred and noisy as generated images are."""
    images = render(scenes).images
    chosen = rng.random(len(scenes)) < degraded_share
    if chosen.any():
        images = images.copy()
        images[chosen] = degrade(rng, images[chosen], _AUGMENTATION)
    return images


def make_vae_images(flux_folder: Path) -> Make:
    """Renders, encoded and decoded by the micro FLUX's VAE."""
    import torch
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(sound_weights(flux_folder / "vae"), torch_dtype=torch.float32).eval()

    def make(rng: np.random.Generator, size: int) -> list[PooledImage]:
        made = fresh_images(rng, size)
        images = []
        for start in range(0, size, 100):
            batch = np.stack([m.image for m in made[start : start + 100]])
            with torch.inference_mode():
                decoded = vae.decode(vae.encode(to_pixels(batch)).latent_dist.mode()).sample  # pyright: ignore
            images.append(to_images(decoded))
        return [dataclasses.replace(m, image=image) for m, image in zip(made, np.concatenate(images), strict=True)]

    return make


def can_be_told(scene: Scene) -> bool:
    """Whether the world's language has words for all of it: clean shapes, and no more than it counts to."""
    return 1 <= len(scene.objects) <= MAX_OBJECTS and all(item.shape != "blob" for item in scene.objects)


def clear_objects(item: PooledImage) -> PooledImage | None:
    """The image without what is no clear shape in it: nobody should see a star in a blob. None where there are more
    objects than the world counts to."""
    clear = tuple(found for found in item.scene.objects if found.shape != "blob")
    if len(clear) > MAX_OBJECTS:
        return None
    return dataclasses.replace(item, scene=dataclasses.replace(item.scene, objects=clear))


def _open_generator(flux_folder: Path, device: str, batch_size: int) -> FluxGenerator:
    from inference.flux.generator import FluxGenerator

    return FluxGenerator(micro_flux(model=str(flux_folder), batch_size=batch_size, device=device))


def draw_captions(
    generator: FluxGenerator,
    rng: np.random.Generator,
    size: int,
    weights: Mapping[str, float] = TRAINING_WEIGHTS,
    long_share: float = LONG_SHARE,
) -> tuple[list[Caption], list[np.ndarray]]:
    """About `size` drawings of training captions, `SEEDS_PER_CAPTION` of each beside each other; some are long ones."""

    def sample() -> Caption:
        is_long = rng.random() < long_share
        return caption_of_text(sample_long_caption(rng)[0]) if is_long else sample_training_caption(rng, weights)

    captions = [c for _ in range(size // SEEDS_PER_CAPTION) for c in [sample()] * SEEDS_PER_CAPTION]
    seeds = rng.integers(2**31, size=len(captions)).tolist()
    return captions, generator.generate([c.text for c in captions], seeds)


def _open_corrector(flux_folder: Path, device: str, batch_size: int) -> FluxCorrector:
    from inference.flux.corrector import FluxCorrector, FluxCorrectorConfig

    generator = _open_generator(flux_folder, device, batch_size)
    return FluxCorrector(FluxCorrectorConfig(str(flux_folder.parent / "corrector")), generator)


def correct_drawings(
    corrector: FluxCorrector, drawings: Sequence[PooledImage], rng: np.random.Generator, size: int
) -> tuple[list[Caption], list[np.ndarray]]:
    """About `size` drawings of the corrector, `CORRECTIONS_PER_DRAWING` of each wrong one beside each other.

    drawings: of the generator, with at least two wrong ones.
    """
    wrong: list[tuple[PooledImage, str]] = []
    for i in rng.permutation(len(drawings)).tolist():
        if len(wrong) < size // CORRECTIONS_PER_DRAWING and (text := _what_is_wrong(drawings[i])):
            wrong.append((drawings[i], text))
    others = [text for _, text in [*wrong[1:], *wrong[:1]]]
    told = [
        (item, text if rng.random() < TOLD_TRUE_SHARE else other)
        for (item, text), other in zip(wrong, others, strict=True)
    ]
    rows = [row for row in told for _ in range(CORRECTIONS_PER_DRAWING)]
    captions, seeds = [item.caption for item, _ in rows], rng.integers(2**31, size=len(rows)).tolist()
    images = [item.image for item, _ in rows]
    return captions, corrector.correct(images, [c.text for c in captions], [text for _, text in rows], seeds)


def _what_is_wrong(item: PooledImage) -> str:
    """Instructions that put it right; empty where nothing is wrong, or where there is more than can be told."""
    clear = clear_objects(item)
    return "" if clear is None else " ".join(instruction(edit) for edit in corrections(clear.caption, clear.scene))


def read_drawings(captions: Sequence[Caption], images: Sequence[np.ndarray]) -> list[PooledImage]:
    """With what the pixel scorer makes of them."""
    return [PooledImage(i, read_scene(i, CLEAR_MARGIN), c) for i, c in zip(images, captions, strict=True)]


def _draw_on_gpu(
    folder: Path,
    config: MicroTrainingConfig,
    size: int,
    draw: Draw,
) -> None:
    """Chunks of a pool: drawn by the GPU in large batches, then read by processes."""
    first = len(list(folder.glob("chunk_*.npz")))
    numbers = range(first, first + -(-size // GPU_CHUNK))
    drawn = {n: draw(np.random.default_rng([config.seed, 78, n]), GPU_CHUNK) for n in numbers}
    parts = [
        (number, captions[i : i + GPU_PART], images[i : i + GPU_PART])
        for number, (captions, images) in drawn.items()
        for i in range(0, len(images), GPU_PART)
    ]
    made = MadeAhead(lambda n: read_drawings(*parts[n % len(parts)][1:]), config.data_workers)
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        items = [item for part in parts if part[0] == number for item in made.next()]
        write_images(folder / f"chunk_{number:03d}.npz", items)


def folder_digest(folder: Path) -> str:
    """8 hex digits over all weights below a folder: another generator, another pool."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def open_generated_pool(config: MicroTrainingConfig, size: int) -> ImagePool | None:
    """At least `size` drawings of the micro FLUX, for all trainings together; None without one."""
    return _drawn_pool(config, size, "drawn_images", TRAINING_WEIGHTS, LONG_SHARE)


def open_relations_pool(config: MicroTrainingConfig, size: int) -> ImagePool | None:
    """At least `size` drawings of coloured relations, nine in ten of them wrong; None without a micro FLUX."""
    return _drawn_pool(config, size, "drawn_relations", {COLORED_RELATION: 1.0}, 0.0)


def _drawn_pool(
    config: MicroTrainingConfig, size: int, name: str, weights: Mapping[str, float], long_share: float
) -> ImagePool | None:
    flux = config.out_dir / "flux"
    if size == 0 or not (flux / "model_index.json").exists():
        return None

    def open_draw(device: str, batch_size: int) -> Draw:
        generator = _open_generator(flux, device, batch_size)
        return partial(draw_captions, generator, weights=weights, long_share=long_share)

    return _grown_pool(config, config.work_dir / f"{name}-{folder_digest(flux)}", size, open_draw)


def open_corrected_pool(config: MicroTrainingConfig, drawings: ImagePool | None, size: int) -> ImagePool | None:
    """At least `size` drawings of the micro corrector, made of wrong `drawings`; None without a corrector."""
    flux, corrector = config.out_dir / "flux", config.out_dir / "corrector"
    if size == 0 or drawings is None or not (corrector / "corrector.json").exists():
        return None

    def open_draw(device: str, batch_size: int) -> Draw:
        return partial(correct_drawings, _open_corrector(flux, device, batch_size), drawings.items)

    folder = config.work_dir / f"corrected_images-{folder_digest(flux)}-{folder_digest(corrector)}"
    return _grown_pool(config, folder, size, open_draw)


def _grown_pool(
    config: MicroTrainingConfig, folder: Path, size: int, open_draw: Callable[[str, int], Draw]
) -> ImagePool:
    """The pool in `folder` with at least `size` images, as the pixel scorer reads them. open_draw: loads what draws,
    for a device and a batch size; called where images are missing."""

    def make_on_cpu() -> Make:
        draw = open_draw("cpu", CPU_BATCH)
        return lambda rng, number: read_drawings(*draw(rng, number))

    def open_pool() -> ImagePool:
        return ImagePool(folder, lazily(make_on_cpu), config.seed, config.data_workers)

    pool = open_pool()
    if config.device != "cpu" and len(pool) < size:
        _draw_on_gpu(folder, config, size - len(pool), open_draw(config.device, GPU_BATCH))
        pool = open_pool()
    pool.grow_to(size, min(400, size))
    return pool


def open_pools(
    config: MicroTrainingConfig, num_vae: int, num_generated: int, num_corrected: int = 0, num_relations: int = 0
) -> tuple[ImagePool | None, ImagePool | None]:
    """Pools of VAE'd and of generated images with what is clear in them, as large as asked for; None without a micro
    FLUX to make them with. Corrected ones and drawings of coloured relations come first among the generated."""
    vae = config.out_dir / "flux" / "vae"
    renders = None
    if num_vae and (vae / "config.json").exists():
        folder = config.work_dir / f"vlm_vae_images-{folder_digest(vae)}"
        renders = ImagePool(folder, lazily(lambda: make_vae_images(vae.parent)), config.seed, config.data_workers)
        renders.grow_to(num_vae, min(1000, num_vae))
    generated = open_generated_pool(config, num_generated)
    if num_generated and not generated:
        print(f"no generator's drawings among the training images: {config.out_dir / 'flux'} has no model", flush=True)
    corrected = open_corrected_pool(config, generated, num_corrected)
    if num_corrected and not corrected:
        print(f"no corrector's drawings among the training images: none in {config.out_dir}", flush=True)
    if generated:
        relations = open_relations_pool(config, num_relations)
        first = [
            *(corrected.items[:num_corrected] if corrected else []),
            *(relations.items[:num_relations] if relations else []),
        ]
        items = [*first, *generated.items[:num_generated]]
        generated.items = [clear for item in items if (clear := clear_objects(item))]
    return renders, generated if generated and len(generated) else None


def lazily(maker: Callable[[], Make]) -> Make:
    """The maker's function, with its model loaded at the first call: a full pool needs none."""
    made: list[Make] = []

    def make(rng: np.random.Generator, size: int) -> list[PooledImage]:
        if not made:
            made.append(maker())
        return made[0](rng, size)

    return make

"""What `dual_process_tables` is made of: one distillation a prompt, judged and kept, and the same by latents."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.dual_process.gradient_memory import kept_for_gradient, parameter_bytes
from benchmarks.dual_process.latent_optimization import LatentConfig, optimize_latents
from benchmarks.dual_process.micro_commonsense import MicroDescriptionJudge
from inference.dual.concept import Concept, QuestionAnswer, concept_of
from inference.dual.expanded_prompts import expand
from inference.dual.questions import questions_about, show_question
from inference.dual.statements import described_questions
from inference.interfaces import ChatRequest
from inference.judges.commonsense_t2i import CommonsensePair
from inference.judges.geneval_scoring import judge_objects
from inference.vlm.in_process import InProcessVlm
from inference.vlm.prompts import fill_prompt, load_prompt
from microworld.family import micro_flux, micro_qwen
from microworld.scenes.captions import training_captions
from microworld.scenes.evaluation_split import dev_prompts, evaluation_seed
from recipes import micro
from schemas.atomic_file import write_whole
from schemas.configuration import content_key
from schemas.records import PromptRecord
from trainers.denoiser import add_lora, clean_estimate, draw, remove_lora
from trainers.denoiser_config import DenoiserConfig
from trainers.dual_process import DualProcess, NotConvergedError, as_uint8
from trainers.dual_process_config import DualProcessConfig

FEW_STEPS = "micro/flux_few_steps"
UNRELATED_PER_TAG = 4


@dataclass(frozen=True)
class Task:
    """One prompt of a pair, as it stands or expanded."""

    setting: str  # "one step" or "multi-step"
    pair: int
    side: int
    kind: str  # "base" or "expanded"

    @property
    def name(self) -> str:
        return f"{self.setting.replace(' ', '-')}-{self.pair:02}-{self.side}-{self.kind}"


def setting_config(setting: str, tries: int, steps: int = 0) -> DualProcessConfig:
    """The micro preset at one step (with the few-step LoRA) or its four; whatever comes of a training is a result."""
    config = replace(micro.dual_process(), num_evaluated=tries, num_threads=1)
    config = replace(config, min_probability=0.0, min_rise=-1.0, hopeless_after=0)
    config = replace(config, steps=steps or config.steps)
    if setting == "one step":
        flux = micro_flux(num_steps=1, few_steps_lora=FEW_STEPS)
        return replace(config, generator=DenoiserConfig(flux=flux), gradient_steps=1)
    return config


def asked_about(pair: CommonsensePair, side: int) -> list[QuestionAnswer]:
    """Questions for a side's base prompt: what it means is for the VLM to know."""
    prompt = pair.prompts[side]
    match = QuestionAnswer(f'Does the image match the prompt "{prompt}"?')
    if pair.descriptions[side] == prompt:  # of a weak tag: its words say it
        return [*questions_about(prompt), match]
    return [show_question(prompt.removeprefix("a photo of ")), match]


class Tables:
    """Models of one setting, loaded once; results by task, kept in files and not made again."""

    def __init__(
        self,
        setting: str,
        pairs: list[CommonsensePair],
        tries: int,
        out: Path,
        steps: int = 0,
        *,
        described: Literal["", "parts", "whole"] = "",
        learning_rate: float = 0.0,
        keep_weight: float = 0.0,
        keep_prompts: int = 0,
    ) -> None:
        """described: the questions are made from a pair's descriptions, part by part or one of the whole, and these are
        the expanded prompts; else both are for the VLM to know. learning_rate, keep_weight, keep_prompts: 0 for the
        preset's."""
        self.setting, self.pairs, self.out, self.described = setting, pairs, out, described
        config = setting_config(setting, tries, steps)
        rate, weight = learning_rate or config.learning_rate, keep_weight or config.keep_weight
        config = replace(config, learning_rate=rate, keep_weight=weight)
        if keep_prompts:
            named = {text for pair in pairs for text in (*pair.prompts, *pair.descriptions)}
            kept = [text for text in training_captions(keep_prompts) if text not in named]
            config = replace(config, keep_prompts=tuple(kept), keep_seeds=1)
        self.models = DualProcess(config)
        self.judge = MicroDescriptionJudge()
        self._vlm = InProcessVlm.of(self.models.teacher.model, self.models.teacher.processor, _vlm_config())
        self._unrelated: dict[int, list[PromptRecord]] = {}
        self._drift_before: dict[tuple[str, ...], list[bool]] = {}

    def concept(self, task: Task) -> Concept:
        """What a task learns. An expanded prompt of the VLM's own reads a first image where words say it all."""
        pair = self.pairs[task.pair]
        prompt, description = pair.prompts[task.side], pair.descriptions[task.side]
        if self.described:
            shown = prompt if task.kind == "base" else description
            whole = (QuestionAnswer(f'Does the image match the prompt "{description}"?'),)
            asked = described_questions(prompt, description) if self.described == "parts" else whole
            return concept_of(task.name, shown, asked)
        if task.kind == "expanded":
            prompt = self._expanded(pair, task.side)
        return concept_of(task.name, prompt, asked_about(pair, task.side))

    def result(self, task: Task) -> dict[str, Any]:
        """Figures of a task, made now or read."""
        concept = self.concept(task)
        folder, key = self._place_of(task, concept)
        kept = read_result(folder / "result.json", key)
        if kept is not None:
            return kept
        unrelated = self.unrelated(task.pair)
        texts = tuple(record.text for record in unrelated)
        if texts not in self._drift_before:
            self._drift_before[texts] = self._are_right(unrelated)
        drift: list[bool] = []
        found: dict[str, Any] = {}

        def look() -> None:
            drift.extend(self._are_right(unrelated))

        try:
            distilled = self.models.distill(concept, folder, while_taught=look)
        except NotConvergedError as error:  # cannot be without bounds, but would be worth knowing
            raise AssertionError(str(error)) from error
        pair, side = self.pairs[task.pair], task.side
        for name, evaluated in (("before", distilled.before), ("after", distilled.after)):
            count = len(evaluated.images)
            own, other = [pair.descriptions[side]] * count, [pair.descriptions[1 - side]] * count
            found[f"fits_{name}"] = self.judge.fits(list(evaluated.images), own, other).tolist()
            found[f"vlm_{name}"] = evaluated.probability
        found |= {
            "prompt": concept.prompt,
            "steps": len(distilled.curve),
            "seconds": distilled.seconds,
            "unrelated_before": self._drift_before[texts],
            "unrelated_after": drift,
        }
        write_result(folder / "result.json", key, found)
        return found

    def folder(self, task: Task) -> Path:
        """Where a task's LoRA is, once `result` has made it."""
        return self._place_of(task, self.concept(task))[0]

    def _place_of(self, task: Task, concept: Concept) -> tuple[Path, str]:
        """Folder and key: other weights or settings get a folder of their own."""
        unrelated = [record.text for record in self.unrelated(task.pair)]
        key = content_key(self.models.key_of(concept), asdict(self.pairs[task.pair]), unrelated)
        return self.out / f"{task.name}-{key[:8]}", key

    def unrelated(self, pair: int) -> list[PromptRecord]:
        """What a pair's distillations should leave as it is. Of described pairs other ones name what a pair does not:
        what is unrelated is so to one pair, and the same whether more of them are asked for or not."""
        if pair not in self._unrelated:
            own = self.pairs[pair]
            related = {text for one in self.pairs for text in one.prompts}
            self._unrelated[pair] = unrelated_prompts({*own.prompts, *own.descriptions} if self.described else related)
        return self._unrelated[pair]

    def _are_right(self, records: list[PromptRecord]) -> list[bool]:
        """The judge on prompts, drawn by the generator as it is now."""
        denoiser, images = self.models.denoiser, []
        for record in records:
            images.append(
                as_uint8(draw(denoiser, denoiser.encode(record.text), [evaluation_seed(record.prompt_id)]))[0]
            )
        return self.right_images(records, images)

    def right_images(self, records: list[PromptRecord], images: list[np.ndarray]) -> list[bool]:
        """The judge on images (H, W, 3) of prompts."""
        found = self.judge.judge.find_objects(images)
        limits = self.judge.judge.config.thresholds
        return [judge_objects(p, o, limits).correct for p, o in zip(records, found, strict=True)]

    def _expanded(self, pair: CommonsensePair, side: int) -> str:
        prompt = pair.prompts[side]
        if pair.descriptions[side] != prompt:
            return expand(self._vlm, [prompt], "micro/refine")[0] or prompt
        denoiser = self.models.denoiser
        image = as_uint8(draw(denoiser, denoiser.encode(prompt), [self.models.config.first_seed]))[0]
        (answer,) = self._vlm.answer([ChatRequest(fill_prompt(load_prompt("micro/refine"), prompt=prompt), (image,))])
        return answer.text if answer.finished and answer.text else prompt

    def latents(self, task: Task, tries: int) -> dict[str, Any]:
        """Table 2 for one prompt: the same single images by latents and by weights, then those weights on others."""
        concept = self.concept(task)
        config = self.models.config
        single = replace(config, batch_size=1, num_seeds=1, steps=min(config.steps, LATENTS.steps))
        latent = replace(
            LATENTS, steps=single.steps, gradient_steps=config.gradient_steps, stop_probability=config.stop_probability
        )
        key = content_key(self.models.key_of(concept), asdict(single), asdict(latent), tries)
        path = self.out / f"latents-{task.name}-{key[:8]}" / "result.json"
        kept = read_result(path, key)
        if kept is not None:
            return kept
        pair, denoiser, teacher = self.pairs[task.pair], self.models.denoiser, self.models.teacher
        text = denoiser.encode(concept.prompt)
        by_latents: list[np.ndarray] = []
        found: dict[str, Any] = {"latent_seconds": [], "latent_steps": []}
        for seed in range(config.first_seed, config.first_seed + tries):
            one = optimize_latents(denoiser, teacher, concept, [seed], latent)
            by_latents.append(one.images[0])
            found["latent_seconds"].append(one.seconds)
            found["latent_steps"].append(int(one.steps[0]))
        of_one = DualProcess(single, denoiser, teacher)
        shown: dict[str, np.ndarray] = {}

        def look() -> None:
            started = time.monotonic()
            shown["others"] = as_uint8(draw(denoiser, text, range(tries)))
            found["draw_seconds"] = (time.monotonic() - started) / tries
            shown["same"] = as_uint8(draw(denoiser, text, [config.first_seed]))

        distilled = of_one.distill(concept, path.parent, while_taught=look)
        description = pair.descriptions[task.side]
        found |= {
            "weight_seconds": distilled.seconds,
            "weight_steps": len(distilled.curve),
            "latents_right": self.judge.shows(by_latents, [description] * tries).tolist(),
            "weights_right": self.judge.shows(list(shown["same"]), [description]).tolist(),
            "weights_right_on_others": self.judge.shows(list(shown["others"]), [description] * tries).tolist(),
            **self._memory(concept, text),
        }
        write_result(path, key, found)
        return found

    def _memory(self, concept: Concept, text: Any) -> dict[str, int]:
        """Bytes: weights of generator and VLM, and what each keeps for the gradient of one image, by method."""
        denoiser, teacher, config = self.models.denoiser, self.models.teacher, self.models.config
        pipeline: Any = denoiser.pipeline  # pyright: ignore[reportAttributeAccessIssue]
        found = {
            "generator_bytes": parameter_bytes(pipeline.transformer, pipeline.vae),
            "vlm_bytes": parameter_bytes(teacher.model),
        }
        z = denoiser.noise([0])
        for method in ("latents", "weights"):
            if method == "weights":
                add_lora(denoiser.network, config.rank, config.rank * config.alpha_per_rank, config.targets, 0)
            noise = z.clone().requires_grad_(method == "latents")
            with kept_for_gradient((pipeline.transformer, pipeline.vae)) as kept:
                image = clean_estimate(denoiser, noise, text, 0, config.gradient_steps)
            found[f"{method}_generator_kept_bytes"] = kept.num_bytes
            with kept_for_gradient((teacher.model,)) as kept:
                teacher.losses(image.detach().requires_grad_(), concept.questions[0])
            found[f"{method}_vlm_kept_bytes"] = kept.num_bytes
        remove_lora(denoiser.network)
        return found


LATENTS = LatentConfig(steps=40, learning_rate=0.05)


def _vlm_config() -> Any:

    return micro_qwen(max_new_tokens=64, batch_size=8)


def unrelated_prompts(related: set[str]) -> list[PromptRecord]:
    """The first few dev prompts of each tag that no pair has: what should not change."""
    chosen: dict[str, list[PromptRecord]] = {}
    for record in dev_prompts():
        of_tag = chosen.setdefault(record.tag or "", [])
        known = related | {other.text for other in of_tag}
        if record.text not in known and len(of_tag) < UNRELATED_PER_TAG:
            of_tag.append(record)
    return [record for of_tag in chosen.values() for record in of_tag]


def read_result(path: Path, key: str) -> dict[str, Any] | None:
    """What was kept under the same key."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value["result"] if value.get("key") == key else None


def write_result(path: Path, key: str, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"key": key, "result": result}) + "\n")

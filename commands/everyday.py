"""The everyday page of every command: `--help` shows examples, and the flags that most people need; all the others are
a `--help-all` or a `--help SUBJECT` away."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Everyday:
    """examples: command lines without what starts them, the simplest first. flags: those that are listed, by name;
    empty: the command's own."""

    examples: tuple[str, ...]
    flags: tuple[str, ...] = ()


_TRAINING = ("data", "out", "preset", "plan", "loop.steps", "loop.micro-batch", "loop.evaluate-every", "recompute")
_WORKERS = ("workers", "gpus-per-worker", "resume")

PAGES: dict[str, Everyday] = {
    "run": Everyday(
        (
            "run --run runs/mine --num-prompts 200",
            "run --run runs/mine --subsets rule general length editing \\\n  --annotate",
            "run --run runs/pilot --preset flux --prompts my_prompts.txt",
        ),
        (
            *("run", "preset", "subsets", "num-prompts", "prompts", "detailed-prompts", "edits", "annotate", "seed"),
            *("fork", "runtime", "allow-quarantine", "quiet"),
        ),
    ),
    "search": Everyday(
        (
            "search --run runs/searched --prompts composed --num-prompts 50",
            "search --run runs/deep --search.depth 8",
            "search --run runs/paper --preset micro-paper",
            "search --run runs/mine --preset flux --prompts my_prompts.txt \\\n  --requirements.kind vlm",
        ),
        (
            *("run", "preset", "prompts", "num-prompts", "images-per-prompt", "search.strategy", "search.width"),
            *("search.depth", "seed", "runtime", "quiet"),
        ),
    ),
    "distill": Everyday(("distill --concepts concepts --run runs/concepts",)),
    "evaluate": Everyday(
        (
            "evaluate --run runs/searched",
            "evaluate geneval --images DIR",
            "evaluate geneval2 --run runs/searched",
            "evaluate commonsense-t2i --data data.json --images DIR",
        )
    ),
    "evaluate geneval2": Everyday(
        (
            "evaluate geneval2 --run runs/searched",
            "evaluate geneval2 --data geneval2_data.jsonl --images DIR",
        )
    ),
    "evaluate commonsense-t2i": Everyday(
        (
            "evaluate commonsense-t2i --data data.json --images DIR",
            "evaluate commonsense-t2i --data data.json --write-expanded",
            "evaluate commonsense-t2i --data data.json --distilled runs/concepts",
        ),
        (
            *("data", "images", "out", "preset", "num-images", "seed", "expanded", "write-expanded", "distilled"),
            "skip-bad",
        ),
    ),
    "harvest": Everyday(
        ("harvest --run runs/searched --out runs/next",),
        ("run", "out", "harvest.pairs-per-prompt", "harvest.min-gain", "harvest.partner", "runtime", "quiet"),
    ),
    "routes": Everyday(("routes --run runs/searched --out routes.json",)),
    "vocabulary": Everyday(
        (
            'vocabulary --out words.json --topic "a harbour" --vlm.model "" \\\n'
            "  --vlm.endpoint-model NAME --vlm.base-url http://HOST:8000/v1",
        ),
        (
            *("out", "topic", "num-objects", "num-colors", "max-count", "answers", "vlm.model", "vlm.endpoint-model"),
            *("vlm.base-url", "vlm.api-key-env"),
        ),
    ),
    "plan": Everyday(
        (
            "plan --preset flux --num-prompts 100000",
            "plan --preset flux --gpu-type l40s --gpus 4",
            "plan search --preset reflectionflow",
            "plan --preset flux --fetch | bash -e",
        ),
        (
            *("run", "preset", "num-prompts", "subsets", "prompts", "annotate", "gpus", "gpu-type", "gpus-per-node"),
            *("gpu-hour-cost", "check", "fetch", "json"),
        ),
    ),
    "plan search": Everyday(
        ("plan search --preset reflectionflow", "plan search --preset flux --num-prompts 100 --search.depth 4"),
        (
            *("run", "preset", "prompts", "num-prompts", "images-per-prompt", "search.width", "search.depth", "gpus"),
            *("gpu-type", "gpus-per-node", "gpu-hour-cost", "check", "fetch", "json"),
        ),
    ),
    "status": Everyday(("status --run runs/mine",)),
    "resume": Everyday(("resume --run runs/mine",), ("run", "runtime", "take-over", "allow-quarantine", "quiet")),
    "retry": Everyday(("retry --run runs/mine",), ("run", "runtime", "take-over", "allow-quarantine", "quiet")),
    "verify": Everyday(("verify --run runs/mine", "verify --run runs/mine --deep")),
    "inspect": Everyday(("inspect --run runs/mine", "inspect --run runs/mine --unit 0 --images shown")),
    "report": Everyday(("report --run runs/mine", "report --run runs/mine --card")),
    "push": Everyday(("push --run runs/mine --repo me/pairs",)),
    "gc": Everyday(("gc --run runs/mine --dry-run", "gc --run runs/mine --keep-candidates paired")),
    "corrector": Everyday(
        (
            "corrector --data runs/mine --out runs/corrector",
            "corrector --preset flux --data runs/mine --plan",
            "corrector --preset flux --data runs/mine --workers 8 --gpus-per-worker 1",
        ),
        (*_TRAINING, "start-from", *_WORKERS),
    ),
    "verifier": Everyday(
        ("verifier --data runs/mine --out runs/verifier", "verifier --preset flux --data runs/mine --plan"),
        (*_TRAINING, *_WORKERS),
    ),
    "reflector": Everyday(
        ("reflector --data runs/mine --out runs/reflector", "reflector --preset flux --data runs/mine --plan"),
        (*_TRAINING, *_WORKERS),
    ),
    "condenser": Everyday(
        ("condenser --data runs/mine --out runs/condenser", "condenser --preset flux --data pairs.jsonl --plan"),
        (*_TRAINING, "long", "short", *_WORKERS),
    ),
    "dual-process": Everyday(
        (
            "dual-process --config concept.yaml --out runs/concept",
            "dual-process --preset flux --config concept.yaml --steps 100",
            "dual-process --preset flux --config concept.yaml \\\n  --referee.model HuggingFaceM4/idefics2-8b",
        ),
        ("config", "out", "preset", "steps", "rank", "learning-rate", "batch-size", "num-evaluated", "seed"),
    ),
    "micro": Everyday(("micro --model all", "micro --model reflector --minutes 6 --out my_weights")),
    "generate": Everyday(
        (
            'generate "a photo of two red circles"',
            'generate "a lighthouse at dusk" --preset flux --num-images 1',
            'generate "a red bicycle" --generator.kind diffusers \\\n  --generator.diffusers.model Qwen/Qwen-Image',
        )
    ),
    "check": Everyday(
        (
            'check "a photo of two red circles" images/image_0.png',
            'check "a photo of two dogs" a.png b.png --preset flux',
        )
    ),
    "score": Everyday(
        (
            'score "a photo of two red circles" a.png b.png',
            'score "a photo of two red circles" a.png --kind trained \\\n  --verifier micro/verifier',
        )
    ),
    "questions": Everyday(
        ('questions "a photo of a green heart" --out concept.yaml', 'questions "a photo of a clover" --implied')
    ),
    "reflect": Everyday(
        (
            'reflect "a photo of a red star left of a blue ring"',
            'reflect "a fox writing a letter" "two red cars" --preset flux --out foxes',
        )
    ),
    "drift": Everyday(("drift before after", "drift before after --preset flux")),
    "completion": Everyday(("completion bash > ~/.local/share/bash-completion/completions/reflectionflow",)),
    "judge": Everyday(('judge "a photo of two red circles" images/image_0.png',)),
}
"""By the command's name as it is typed."""

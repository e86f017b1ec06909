"""Training all weights of a large model: each worker keeps a part of every weight, gradient and moment (FSDP2), and
checkpoints hold these parts, so that another number of workers can go on from them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.atomic_file import TEMPORARY, put_in_place
from schemas.digests import check_manifest, write_manifest
from schemas.errors import CorruptDataError, WorkFailedError
from trainers.checkpoint import REST, Checkpoints, folder_name, save_checkpoint, storing

if TYPE_CHECKING:
    import torch

    from trainers.loop import Rank


def shard(model: Any, device: str, bf16: bool) -> None:
    """A Qwen2.5-VL on this worker's main memory -> its part of it on `device`, a layer of the language model or the
    vision tower at a time. bf16: layers are gathered in bfloat16; parts, gradients and their sums stay in float32."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.partition(":")[0], (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    for layer in (*model.model.language_model.layers, *model.model.visual.blocks):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Inside, every worker has all weights, as it computes with them: writing asks for parts of the model by
    themselves, and for each token. After a step at least, and without gradients."""
    from torch.distributed.fsdp import FSDPModule

    units = [unit for unit in model.modules() if isinstance(unit, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(unit is not model, recurse=False)  # as it is by default


def whole(tensor: Any) -> Any:
    """A tensor that workers have in parts, or any other, as it is. All of them take part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def save_whole(model: Any, processor: Any, folder: Path, base_model: str, is_sharded: bool, ranks: Rank) -> None:
    """A folder in bfloat16 as transformers and vLLM load it. All workers take part, the first one writes."""
    import torch

    from inference.model_store import resolve_model
    from inference.vlm.adapters import load_vlm

    written = load_vlm(resolve_model(base_model), "bfloat16")[0] if ranks.is_first else None
    own = {} if written is None else written.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value = whole(value)
            if ranks.is_first:
                own[name].copy_(value)
    if written is not None:
        written.save_pretrained(folder)
        processor.save_pretrained(folder)
    if is_sharded:
        torch.distributed.barrier()


class ShardedCheckpoints(Checkpoints):
    """Folders `step_00000120` in place of files: every worker writes its parts (torch.distributed.checkpoint). Any
    number of workers reads them, one included. All workers call `save`, `at` and `latest`."""

    def __init__(
        self, folder: Path, keep_last: int, module: torch.nn.Module, optimizer: torch.optim.Optimizer, ranks: Rank
    ) -> None:
        """optimizer: AdamW of the module's parameters with gradients, in their order."""
        super().__init__(folder, keep_last)
        self._named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._optimizer, self._ranks = optimizer, ranks

    def save(self, step: int, state: dict[str, Any], score: float | None = None) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException

        final = self._folder / folder_name(step)
        temporary = final.with_name(f"{TEMPORARY}{final.name}")
        with self._whole_or_nothing(temporary):
            if self._ranks.is_first:
                self._sweep()
                temporary.mkdir(parents=True)
            self._wait()
            try:
                dcp.save(self._parts(), checkpoint_id=temporary, no_dist=self._ranks.world_size == 1)
            except CheckpointException as error:  # no Exception; it tells what each worker met
                raise next(iter(one for one, _ in error.failures.values()), error) from error
            self._wait()
            if self._ranks.is_first:
                groups = self._optimizer.state_dict()["param_groups"]
                rest = state | {"weights": None, "optimizer": groups, "score": score}
                save_checkpoint(temporary / REST, rest)
                write_manifest(temporary)
                shutil.rmtree(final, ignore_errors=True)
                put_in_place(temporary, final)
                self._keep(step, score)
        self._wait()

    @contextmanager
    def _whole_or_nothing(self, temporary: Path) -> Iterator[None]:
        """Inside, StorageError where there is no room; then nothing is left of the folder."""
        try:
            with storing(temporary):
                yield
        except BaseException:
            if self._ranks.is_first:
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def at(self, step: int, device: str = "cpu") -> dict[str, Any] | None:
        """The state of one step. Its tensors are the module's and the optimizer's own, which it was read into; those of
        another model's checkpoint are not read, and have only their shapes. CorruptDataError for a folder whose files
        are not those that were written; WorkFailedError where parts do not read all the same: an older state must not
        be mixed with what was read already."""
        import torch
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException

        folder = self._folder / folder_name(step)
        if not folder.is_dir():
            return super().at(step, device)
        self._check(folder)
        rest = super().at(step)
        assert rest is not None
        saved = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        weights = {n.removeprefix("weights."): m for n, m in saved.items() if n.startswith("weights.")}
        sizes = {name: getattr(m, "size", None) for name, m in weights.items()}
        if sizes != {name: p.shape for name, p in self._named.items()}:
            return rest | {"weights": {name: torch.empty(size or (), device="meta") for name, size in sizes.items()}}
        parts = self._parts()
        try:
            dcp.load(parts, checkpoint_id=folder, no_dist=self._ranks.world_size == 1)
        except (CheckpointException, Exception) as error:  # the former is no Exception
            said = next(iter(str(error).splitlines()[-1:]), "")
            raise WorkFailedError(
                f"{folder} does not read ({said})\n  remove it, and the training goes on from the one before"
            ) from error
        moments = dict(enumerate(parts["moments"].values()))
        optimizer = {"state": moments, "param_groups": rest["optimizer"]}
        return rest | {"weights": parts["weights"], "optimizer": optimizer}

    def _check(self, folder: Path) -> None:
        """CorruptDataError, for all workers, where the first one finds other bytes than were written."""
        problem = [""]
        if self._ranks.is_first:
            try:
                check_manifest(folder)
            except CorruptDataError as error:
                problem = [f"{error}; remove the folder {folder.name}, or put a copy in its place"]
        if self._ranks.world_size > 1:
            import torch.distributed as dist

            dist.broadcast_object_list(problem)
        if problem[0]:
            raise CorruptDataError(problem[0])

    def _parts(self) -> dict[str, dict[str, Any]]:
        """This worker's: weights, and the moments of each, zeros where no step has been taken."""
        import torch

        state = self._optimizer.state
        for p in self._named.values():
            if p not in state:
                zeros = {name: torch.zeros_like(p.detach()) for name in ("exp_avg", "exp_avg_sq")}
                state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **zeros}
        return {
            "weights": {name: p.detach() for name, p in self._named.items()},
            "moments": {name: dict(state[p]) for name, p in self._named.items()},
        }

    def _wait(self) -> None:
        if self._ranks.world_size > 1:
            import torch.distributed as dist

            dist.barrier()

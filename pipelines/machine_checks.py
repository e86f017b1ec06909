"""What a machine must have beside weights and packages: a compiler where something is compiled, headers, shared memory.
Each problem says how it is mended."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pipelines.jobs import JobConfig
from pipelines.served_vlms import served_vlms

SHARED_MEMORY_GIB = 1.0
"""NCCL takes some tens of MiB of /dev/shm a pair of GPUs, vLLM's and torch's workers some more; Docker gives 64 MiB."""


def machine_problems(config: JobConfig, num_gpus: float | None = None) -> list[str]:
    """Of this machine, for a run. num_gpus: that it has; None: those that the driver shows."""
    num_gpus = float(_visible_gpus()) if num_gpus is None else num_gpus
    problems = compiler_problems(num_gpus > 0) if compiles(config, num_gpus > 0) else []
    return problems + (shared_memory_problems() if num_gpus else [])


def compiles(config: JobConfig, on_gpu: bool) -> bool:
    """Whether a run has something compiled when it starts: FLUX's blocks, or what vLLM does (Triton, on a GPU even
    where vLLM itself compiles nothing)."""
    links = [link for links in config.links().values() for link in links]
    served = [vlm for link in links for vlm in served_vlms(link.config)]
    by_vllm = any(on_gpu if vlm.device != "cpu" else "--enforce-eager" not in vlm.vllm_arguments for vlm in served)
    return by_vllm or any(_says_compile(link.config) for link in links)


def compiler_problems(on_gpu: bool, which: Callable[[str], str | None] = shutil.which) -> list[str]:
    """What Triton and torch's inductor would not find. which: where a program lies."""
    problems = []
    if not (os.environ.get("CC") or which("gcc") or which("clang")):
        problems.append("no C compiler, which Triton needs when it starts: `apt-get install gcc g++`, or set CC")
    elif not (os.environ.get("CXX") or which("g++") or which("clang++")):
        problems.append("no C++ compiler, which torch.compile needs: `apt-get install g++`, or set CXX")
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").is_file():
        problems.append(f"no Python.h in {include}, which Triton compiles with: `apt-get install python3-dev`")
    if on_gpu and not any((folder / "cuda.h").is_file() for folder in cuda_include_folders()):
        searched = ", ".join(str(folder) for folder in cuda_include_folders())
        problems.append(f"no cuda.h in {searched}: install triton again, or set CUDA_HOME to a CUDA toolkit")
    return problems


def cuda_include_folders() -> list[Path]:
    """Where cuda.h may lie: in Triton's own package, in NVIDIA's, in a toolkit."""
    folders = []
    for package, inside in (("triton", "backends/nvidia/include"), ("nvidia", "cu13/include")):
        found = importlib.util.find_spec(package)
        places = (found.submodule_search_locations if found else None) or ()
        folders += [Path(place) / inside for place in places]
    return [*folders, Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / "include"]


def shared_memory_problems(folder: str = "/dev/shm", needed_gib: float = SHARED_MEMORY_GIB) -> list[str]:
    """Whether processes that share GPUs' data have room for it."""
    try:
        gib = shutil.disk_usage(folder).total / 2**30
    except OSError as error:
        return [f"{folder}: {error.strerror}; NCCL needs shared memory there"]
    if gib >= needed_gib:
        return []
    return [
        f"{folder} has {gib * 1024:.0f} MiB, too little for NCCL and vLLM: `docker run --shm-size=8g` (or "
        "`--ipc=host`); on Kubernetes an emptyDir of medium Memory that is mounted there"
    ]


def _visible_gpus() -> int:
    """Without torch, which would take a GPU's memory."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _says_compile(config: Any) -> bool:
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "compile" and value not in ("none", False):
            return True
        for one in value if isinstance(value, tuple) else (value,):
            if is_dataclass(one) and _says_compile(one):
                return True
    return False

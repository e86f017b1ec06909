"""The image's file, and its steps as far as they go without Docker: the same commands on a folder of what it copies."""

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "deploy" / "Dockerfile").read_text()
STEPS = [
    line.split(None, 1)
    for line in re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    if line.strip()
]


def packages() -> set[str]:
    """That apt installs."""
    (line,) = [said for kind, said in STEPS if kind == "RUN" and "apt-get install" in said]
    words = line.split("apt-get install", 1)[1].split("&&")[0].split()
    return {word for word in words if not word.startswith("-")}


def test_what_it_copies_is_there():
    copied = [said.split()[:-1] for kind, said in STEPS if kind == "COPY"]
    sources = [source for some in copied for source in some]
    assert {"requirements-core.txt", "pyproject.toml", "."} == set(sources)
    assert all((ROOT / source).exists() for source in sources)


def test_the_image_gets_the_packages_whole_and_nothing_beside_them():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    kept = [path for path in listed if path and not any(left_out(path, pattern) for pattern in patterns)]
    for package in ("schemas", "inference", "trainers", "pipelines", "microworld", "recipes", "commands", "deploy"):
        assert [path for path in kept if path.startswith(f"{package}/")] == [
            path for path in listed if path.startswith(f"{package}/")
        ]
    assert not [path for path in kept if path.startswith(("tests/", "benchmarks/", "docs/"))]
    for path in (".venv/bin/python", "runs/a/run.json", "images/a.png", "inference/__pycache__/a.pyc", "sub/.env"):
        assert any(left_out(path, pattern) for pattern in patterns), path


def left_out(path: str, pattern: str) -> bool:
    """Whether Docker leaves a file out by one line: of the whole path, or of a folder that it lies in."""
    parts = path.split("/")
    starts = range(len(parts)) if pattern.startswith("**/") else [0]
    word = pattern.removeprefix("**/")
    return any(
        fnmatch.fnmatchcase("/".join(parts[i:end]), word) for i in starts for end in range(i + 1, len(parts) + 1)
    )


def test_it_has_what_triton_and_vllm_compile_with():
    assert {"gcc", "g++", "libc6-dev"} <= packages()
    assert STEPS[0] == ["FROM", "python:3.11-slim"]  # built from source: its headers are in /usr/local/include
    pinned = (ROOT / "requirements-cpu.txt").read_text()
    assert re.search(r"^ninja==", pinned, re.MULTILINE)
    assert re.search(r"^triton==", pinned, re.MULTILINE)


def test_apt_takes_its_packages():
    """Names that no source has are refused, even where nothing is installed."""
    known = subprocess.run(["apt-cache", "show", "gcc"], capture_output=True)
    if known.returncode:
        pytest.skip("apt has no lists here")
    command = ["apt-get", "install", "--simulate", "--no-install-recommends", *sorted(packages())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pip_reads_its_requirements():
    lines = [line for line in (ROOT / "requirements-core.txt").read_text().splitlines() if line.strip()]
    from packaging.requirements import Requirement

    assert len([Requirement(line) for line in lines]) > 100


def test_its_command_is_the_checkouts(tmp_path):
    """As the file writes it, with another place for it."""
    (line,) = [said for kind, said in STEPS if kind == "RUN" and "reflectionflow" in said]
    command = tmp_path / "reflectionflow"
    script = line.replace("/usr/local/bin/reflectionflow", str(command))
    environment = {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("reflectionflow "), done.stderr
    done = subprocess.run([command, "status", "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "usage:" in done.stdout


def test_gpu_pods_have_shared_memory():
    spec = yaml.safe_load((ROOT / "deploy" / "kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"

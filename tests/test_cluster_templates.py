import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from commands.main import GROUPS
from commands.run import parse_run

ROOT = Path(__file__).parents[1]
KUBERAY = yaml.safe_load((ROOT / "deploy" / "kuberay.yaml").read_text())
SBATCH = (ROOT / "deploy" / "slurm.sbatch").read_text()
DOCS = (ROOT / "docs" / "cluster.md").read_text()
LAUNCHER = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def commands(text: str) -> list[list[str]]:
    """Arguments of every `python -m pipelines run` in a text, as a shell would pass them on."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"python -m pipelines run (.*)", joined)
    return [shlex.split(line.split("`")[0].replace('"$run"', "/runs/x").replace('"$@" &', "")) for line in found]


@pytest.mark.parametrize(
    ("text", "number"),
    [(KUBERAY["spec"]["entrypoint"], 1), (SBATCH.split("cd ", 1)[1], 1), (DOCS, 2)],
    ids=["kuberay", "slurm", "docs"],
)
def test_the_commands_are_ones_that_the_command_line_takes(text, number):
    found = commands(text)
    assert len(found) >= number
    for argv in found:
        arguments = parse_run(argv, "run")
        assert arguments.options.runtime == "ray"


def test_the_docs_name_commands_that_there_are():
    named = set(re.findall(r"python -m pipelines (\w+)", DOCS))
    assert {"run", "status", "retry", "plan"} <= named <= set(GROUPS["pipelines"].commands)


def test_the_launchers_file_is_what_ray_expects():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(LAUNCHER))


def actors_that_fit(node: dict[str, float], cpus: float, gpus: float) -> int:
    return int(min(node["CPU"] / cpus, node.get("GPU", 0) / gpus))


def test_each_gpu_group_holds_the_actors_that_it_is_for():
    arguments = parse_run(commands(DOCS)[0], "run")
    generate, ground = arguments.dataset.generate.workers, arguments.dataset.ground.workers
    groups = {name: group["resources"] for name, group in LAUNCHER["available_node_types"].items()}
    pods = {
        group["groupName"]: group["template"]["spec"]["containers"][0]["resources"]["limits"]
        for group in KUBERAY["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    }
    of_pods = {name: {"CPU": float(pod["cpu"]), "GPU": float(pod["nvidia.com/gpu"])} for name, pod in pods.items()}
    for nodes in (groups, of_pods):
        assert actors_that_fit(nodes["generator"], generate.cpus, generate.gpus) == nodes["generator"]["GPU"]
        assert actors_that_fit(nodes["grounding"], generate.cpus, generate.gpus) == 0
        assert actors_that_fit(nodes["grounding"], ground.cpus, ground.gpus) >= 2
    for group in ("generator", "grounding"):
        market = LAUNCHER["available_node_types"][group]["node_config"]["InstanceMarketOptions"]
        assert market == {"MarketType": "spot"}


def test_kuberay_names_the_fields_that_the_operator_reads():
    spec = KUBERAY["spec"]
    assert (KUBERAY["apiVersion"], KUBERAY["kind"]) == ("ray.io/v1", "RayJob")
    assert set(spec) == {"entrypoint", "shutdownAfterJobFinishes", "backoffLimit", "rayClusterSpec"}
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements-core.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


FAKE_SLURM = """
sleep() { command sleep 0.1; }
srun() { echo "srun $*"; }
scontrol() { echo "scontrol $*"; }
python() { if [[ $1 == -c ]]; then echo 2; else trap 'exit 1' TERM; echo "python $*"
    for i in {1..100}; do command sleep 0.05; done; fi; }
"""


@pytest.mark.parametrize("interrupted", [True, False])
def test_the_slurm_script_queues_itself_again_when_it_is_interrupted(tmp_path, interrupted):
    assert subprocess.run(["bash", "-n", ROOT / "deploy" / "slurm.sbatch"]).returncode == 0
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    fake = FAKE_SLURM if interrupted else FAKE_SLURM.replace("100", "1")
    (tmp_path / ".venv" / "bin" / "activate").write_text(fake)
    environment = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "77", "SLURM_NNODES": "2"}
    environment |= {"SLURMD_NODENAME": "node0", "PATH": "/usr/bin:/bin"}
    script = subprocess.Popen(
        ["bash", ROOT / "deploy" / "slurm.sbatch", "/runs/x", "--num-prompts", "64"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = []
    while not lines or not lines[-1].startswith("python"):
        lines.append(script.stdout.readline())
    if interrupted:
        script.terminate()  # what `--signal=B:TERM@240` does
    rest, _ = script.communicate(timeout=120)
    flags = "--run /runs/x --runtime ray --preset flux --num-prompts 64"
    assert lines[-1] == f"python -m pipelines run {flags}\n"
    lines += rest.splitlines()  # the nodes start beside the driver: their lines come before its line or after it
    assert ("scontrol requeue 77" in lines) == interrupted
    assert any("ray start --head" in line for line in lines)
    assert any("ray start --address=" in line for line in lines)

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from commands.arguments import parse_with_preset
from commands.main import GROUPS
from commands.plan import PlanArgs, default_arguments
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
    for i in {1..5000}; do command sleep 0.05; done; fi; }
"""


def held(script: Path, before: str, *arguments: object, **environment: str) -> subprocess.Popen:
    """A script that says "held" and stands still before its first command that begins so, until a line comes. Nothing
    that it says is read ahead: `communicate` would not see what a buffer holds."""
    trap = f"""if [[ -z $was_held && $BASH_COMMAND == "{before}"* ]]; then was_held=1; echo held; read -r; fi"""
    return subprocess.Popen(
        ["bash", "-T", "-c", f"trap '{trap}' DEBUG; source {script}", "bash", *map(str, arguments)],
        env={"PATH": "/usr/bin:/bin"} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )


@pytest.mark.parametrize("when", ["while it starts", "at work"])
@pytest.mark.parametrize(("interrupted", "code"), [(True, 1), (True, 143), (True, 2), (False, 1)])
def test_the_slurm_script_queues_itself_again_when_it_is_interrupted(tmp_path, interrupted, code, when):
    assert subprocess.run(["bash", "-n", ROOT / "deploy" / "slurm.sbatch"]).returncode == 0
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    fake = FAKE_SLURM.replace("exit 1", f"exit {code}")
    fake = fake if interrupted else fake.replace("5000", "1")
    (tmp_path / ".venv" / "bin" / "activate").write_text(fake)
    environment = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "77", "SLURM_NNODES": "2"}
    environment |= {"SLURMD_NODENAME": "node0", "PATH": "/usr/bin:/bin"}
    before = {"while it starts": "pipeline=\\$!", "at work": "wait"}[when]
    script = held(ROOT / "deploy" / "slurm.sbatch", before, "/runs/x", "--num-prompts", "64", **environment)
    lines = []
    while "held" not in lines or not any(line.startswith("python") for line in lines):
        lines.append(script.stdout.readline().decode().rstrip())
    if interrupted:
        script.terminate()  # what `--signal=B:TERM@240` does
    rest, _ = script.communicate(b"go on\n", timeout=200)
    lines += rest.decode().splitlines()  # the nodes start beside the driver: their lines come before its line or after
    assert "python -m pipelines run --run /runs/x --runtime ray --preset flux --num-prompts 64" in lines
    assert ("scontrol requeue 77" in lines) == (interrupted and code in (1, 143))  # a usage error is final
    assert any("ray start --head" in line for line in lines)
    assert any("ray start --address=" in line for line in lines)


def test_every_pod_finds_the_models_where_the_job_fetched_them():
    claim, job = yaml.safe_load_all((ROOT / "deploy" / "weights.yaml").read_text())
    fetch = job["spec"]["template"]["spec"]
    (container,) = fetch["containers"]
    folder = container["volumeMounts"][0]["mountPath"]
    assert fetch["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert container["command"][1:3] == ["/app/deploy/fetch_weights.sh", folder]
    assert PlanArgs is type(parse_with_preset(PlanArgs, container["command"][3:], "plan", default_arguments))
    cluster = KUBERAY["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        environment = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
        assert environment["HF_HOME"] == f"{folder}/hf"
        assert environment["REFLECTIONFLOW_WEIGHTS"] == folder
        mount = next(one for one in pod["containers"][0]["volumeMounts"] if one["mountPath"] == folder)
        volume = next(one for one in pod["volumes"] if one["name"] == mount["name"])
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert container["image"] == cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]


def test_nodes_on_aws_fetch_the_models_to_where_they_are_looked_for():
    (setup,) = LAUNCHER["worker_setup_commands"]
    assert setup.startswith("bash /app/deploy/fetch_weights.sh /weights ")
    options = " ".join(LAUNCHER["docker"]["run_options"])
    assert "-e HF_HOME=/weights/hf -e REFLECTIONFLOW_WEIGHTS=/weights" in options
    assert "-v /opt/weights:/weights" in options


def test_the_script_fetches_what_is_missing_and_ends_at_a_usage_error(tmp_path):
    """With stand-ins for `hf` and `curl`, which write down what they are asked for."""
    for name in ("hf", "curl"):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\necho "{name} $* in $HF_HOME" >> "{tmp_path}/asked"\n')
        tool.chmod(0o755)
    place = tmp_path / "weights"
    place.mkdir()
    (place / "sam_vit_h_4b8939.pth").write_bytes(b"here already")
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(tmp_path)}
    fetch = ["bash", str(ROOT / "deploy" / "fetch_weights.sh"), str(place)]
    subprocess.run(fetch, env=environment, check=True, capture_output=True, cwd=tmp_path)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert f"hf download black-forest-labs/FLUX.1-dev --include *.json --include */* in {place}/hf" in asked
    assert any(line.startswith("curl ") and "groundingdino_swint_ogc.pth" in line for line in asked)
    assert not any("sam_vit_h" in line for line in asked)
    wrong = subprocess.run([*fetch, "--preset", "none"], env=environment, capture_output=True, cwd=tmp_path)
    assert wrong.returncode == 2
    assert (tmp_path / "asked").read_text().splitlines() == asked


@pytest.mark.parametrize(
    ("codes", "ended", "tries"), [("1 137 0", 0, 3), ("2 0", 2, 1), ("3 0", 3, 1), ("4 0", 4, 1), ("130 0", 130, 1)]
)
def test_only_work_that_may_succeed_is_tried_again(tmp_path, codes, ended, tries):
    numbered = tmp_path / "tries"
    command = f"echo >> {numbered}; set -- {codes}; shift $(($(wc -l < {numbered}) - 1)); exit $1"
    again = ["bash", str(ROOT / "deploy" / "until_done.sh"), "bash", "-c", command]
    done = subprocess.run(again, env={"PATH": "/usr/bin:/bin", "WAIT_S": "0"}, capture_output=True)
    assert done.returncode == ended
    assert len(numbered.read_text()) == tries


def test_a_job_that_is_told_to_stop_is_not_started_again(tmp_path):
    """TERM to the process group, as `ray job stop` sends it: the command gets one, finishes, and that is all."""
    heard = tmp_path / "heard"
    command = f'trap "echo TERM >> {heard}; exit 1" TERM; echo ready; for i in $(seq 5000); do sleep .05; done'
    script = subprocess.Popen(
        ["bash", ROOT / "deploy" / "until_done.sh", "bash", "-c", command],
        env={"PATH": "/usr/bin:/bin", "WAIT_S": "0"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert script.stdout.readline() == b"ready\n"
    os.killpg(script.pid, signal.SIGTERM)
    assert script.wait(200) == 1
    assert heard.read_text() == "TERM\n"


def test_a_job_that_is_told_to_stop_while_its_command_is_started_tells_it_all_the_same(tmp_path):
    heard = tmp_path / "heard"
    command = f'trap "echo TERM >> {heard}; exit 1" TERM; echo ready; for i in $(seq 5000); do sleep .05; done'
    script = held(ROOT / "deploy" / "until_done.sh", "child=\\$!", "bash", "-c", command, WAIT_S="0")
    assert {script.stdout.readline() for _ in range(2)} == {b"held\n", b"ready\n"}
    script.terminate()
    script.communicate(b"go on\n", timeout=100)
    assert (script.returncode, heard.read_text()) == (1, "TERM\n")


def test_a_job_that_is_told_to_stop_between_two_tries_makes_no_other(tmp_path):
    tries = tmp_path / "tries"
    script = held(ROOT / "deploy" / "until_done.sh", "sleep ", "bash", "-c", f"echo >> {tries}; exit 1", WAIT_S="0")
    assert script.stdout.readline() == b"held\n"
    script.terminate()
    script.communicate(b"go on\n", timeout=100)
    assert (script.returncode, tries.read_text()) == (1, "\n")


def test_no_retry_loop_of_the_files_takes_a_usage_error_for_bad_luck():
    assert KUBERAY["spec"]["backoffLimit"] == 0
    assert KUBERAY["spec"]["entrypoint"].startswith("bash /app/deploy/until_done.sh python -m pipelines run ")
    _, job = yaml.safe_load_all((ROOT / "deploy" / "weights.yaml").read_text())
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [2]

"""clusters/: the launcher file by Ray's own rules; the manifests by Ray's own reading of them and by hand (KubeRay's schema is in
no package here: the known fields are those of its API reference, ray.io/v1); the batch script against stand-ins for Slurm.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTERS = Path(__file__).parents[2] / "clusters"
POOLS = ("rollout", "judge", "trainer")
_PLACEHOLDERS = (
    "192.0.2.",
    "CHANGE-ME",
    "registry.example.com",
    "ssh_user:",
    "claimName:",
    "nvidia.com/gpu",
    "Replicas:",
)


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CLUSTERS / name).read_text())
    return content


@pytest.mark.parametrize("name", [path.name for path in sorted(CLUSTERS.iterdir())])
def test_lines_to_change_are_marked(name: str) -> None:
    for line in (CLUSTERS / name).read_text().splitlines():
        if any(text in line for text in _PLACEHOLDERS) and not line.startswith("#"):
            assert "CHANGE" in line.partition("#")[2], line


# --- provider: local


def test_ray_accepts_the_launcher_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = read("local.yaml")
    validate_config(content)
    (kind,) = prepare_config(content)["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == 3  # all machines, always


def test_the_launcher_file_tells_every_machine_what_it_is_for(tmp_path: Path) -> None:
    """The very command, with the machine's address in the place of ``hostname -I``."""
    (command,) = [line for line in read("local.yaml")["setup_commands"] if "bcpg-resources" in line]
    made = {}
    for last in range(10, 14):
        script = command.replace("$(hostname -I)", f"192.0.2.{last} 172.17.0.1")
        subprocess.run(["bash", "-ec", script], env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, check=True)
        made[last] = yaml.safe_load((tmp_path / ".bcpg-resources.json").read_text())
    assert made == {10: {}, 11: {"rollout": 4}, 12: {"judge": 4}, 13: {"trainer": 8}}


def test_the_launcher_file_sets_what_later_shells_need(tmp_path: Path) -> None:
    commands = [line for line in read("local.yaml")["setup_commands"] if "bcpg-environment" in line]
    for command in [*commands, commands[-1]]:  # `ray up` again changes nothing
        subprocess.run(
            ["bash", "-ec", f"touch ~/.bashrc; {command}"],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            check=True,
        )
    assert (tmp_path / ".bashrc").read_text().count("bcpg-environment") == 1
    shown = subprocess.run(
        ["bash", "-c", ". ~/.bashrc; env"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert {"RAY_AUTH_MODE=token", "RAY_worker_niceness=0", "RAY_enable_autoscaler_v2=0"} <= set(shown)
    assert f"PATH={tmp_path}/venv/bin:/usr/bin:/bin" in shown
    assert "RAY_health_check_failure_threshold=4" in shown


# --- KubeRay

_CLUSTER = {
    "autoscalerOptions", "authOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
    "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "upgradeStrategy", "workerGroupSpecs",
}  # fmt: skip
_GROUP = {
    "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas",
    "resources", "scaleStrategy", "suspend", "template",
}  # fmt: skip
_HEAD = {"enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template"}
_JOB = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "entrypointNumCpus",
    "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend",
    "ttlSecondsAfterFinished",
}  # fmt: skip


def test_the_manifest_holds_known_fields_only() -> None:
    content = read("kuberay-raycluster.yaml")
    assert (content["apiVersion"], content["kind"]) == ("ray.io/v1", "RayCluster")
    spec = content["spec"]
    assert set(spec) <= _CLUSTER
    assert spec["authOptions"] == {"mode": "token"}
    assert set(spec["headGroupSpec"]) <= _HEAD
    for group in spec["workerGroupSpecs"]:
        assert set(group) <= _GROUP
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        params = group["rayStartParams"]
        assert all(isinstance(value, str) for value in params.values()), "the schema wants strings"
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        assert limits == container["resources"]["requests"] and limits["nvidia.com/gpu"] == params["num-gpus"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/shared"}
            assert all(isinstance(variable["value"], str) for variable in container["env"])


def test_rays_autoscaler_reads_the_pools_from_the_manifest() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    content = read("kuberay-raycluster.yaml")
    content["metadata"]["namespace"] = "default"
    kinds = _derive_autoscaling_config_from_ray_cr(content)["available_node_types"]
    for pool in POOLS:
        resources = kinds[pool]["resources"]
        assert resources[pool] == resources["GPU"], "a member for every GPU"
    assert kinds["headgroup"]["resources"]["CPU"] == 8 and "GPU" not in kinds["headgroup"]["resources"]


def test_the_versions_are_the_projects_own() -> None:
    import ray

    import bcpg_cluster

    spec = read("kuberay-raycluster.yaml")["spec"]
    assert spec["rayVersion"] == ray.__version__
    (container,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(f":{bcpg_cluster.__version__}")


def test_the_job_runs_on_the_same_cluster() -> None:
    content = read("kuberay-rayjob.yaml")
    assert (content["apiVersion"], content["kind"]) == ("ray.io/v1", "RayJob")
    assert set(content["spec"]) <= _JOB
    own, alone = content["spec"]["rayClusterSpec"], read("kuberay-raycluster.yaml")["spec"]
    hosts = [spec["headGroupSpec"]["rayStartParams"].pop("dashboard-host") for spec in (alone, own)]
    assert hosts == ["127.0.0.1", "0.0.0.0"]  # the operator and the submitter of a RayJob are other pods
    assert own == alone
    assert content["spec"]["entrypoint"].startswith("bcpg-cluster iterate ")
    assert "--run-dir /shared/" in content["spec"]["entrypoint"]


def test_only_the_clusters_own_pods_reach_its_ports() -> None:
    """By the labels of the pods themselves; the dashboard's port has two more readers."""
    policy = read("kuberay-networkpolicy.yaml")
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    for spec in (read("kuberay-raycluster.yaml")["spec"], read("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]):
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            assert chosen.items() <= group["template"]["metadata"]["labels"].items()
    among, dashboard = policy["spec"]["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": chosen}}]}
    assert dashboard["ports"] == [{"protocol": "TCP", "port": 8265}]
    submitter = dashboard["from"][1]["podSelector"]["matchLabels"]["batch.kubernetes.io/job-name"]
    assert submitter == read("kuberay-rayjob.yaml")["metadata"]["name"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]


@pytest.mark.parametrize("name", ["local.yaml", "slurm.sbatch", "kuberay-raycluster.yaml", "../cluster.yaml"])
def test_the_dashboard_listens_on_loopback(name: str) -> None:
    told = re.findall(r"dashboard-host[=:] ?(\S+)", (CLUSTERS / name).read_text())
    assert told == ["127.0.0.1"]


# --- Slurm

_SRUN = r"""#!/bin/bash
echo "srun$(printf ' [%s]' "$@") token=${#RAY_AUTH_TOKEN}" >> "$CALLS"  # one write, since several run at once
case "$*" in
  *"hostname -I"*) echo "10.9.8.7 172.17.0.1" ;;
  *"python -c"*) echo "$JOINED" ;;
  *"ray start"*) trap 'kill $!; echo "ended" >> "$CALLS"; exit 143' TERM; sleep 1000 & echo "started" >> "$CALLS"; wait ;;
  *"bcpg-cluster iterate"*) while (( $(grep -c started "$CALLS") < JOINED )); do sleep 0.05; done; if [[ -n "${HANG:-}" ]]; then
      trap 'kill $!; exit 130' TERM; sleep 1000 & touch "$HANG"; wait; fi; exit "${CODE:-0}" ;;
esac
"""


class Slurm:
    """Stand-ins for Slurm's commands; ``calls`` is what they were asked."""

    def __init__(self, folder: Path, nodes: int = 4) -> None:
        self.folder, self.calls_file = folder, folder / "calls"
        self.calls_file.touch()
        for name, script in (("srun", _SRUN), ("scontrol", "#!/bin/bash\nprintf '%s\\n' $NODES\n")):
            (folder / name).write_text(script)
            (folder / name).chmod(0o755 | stat.S_IXUSR)
        self.environment = {
            "PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(self.calls_file), "JOINED": str(nodes),
            "NODES": " ".join(f"n{number}" for number in range(nodes)),
            "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "n[0-3]", "SLURM_CPUS_PER_TASK": "48",
            "SLURM_SUBMIT_DIR": str(folder),
        }  # fmt: skip

    def begin(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        bash = shutil.which("bash") or "bash"
        return subprocess.Popen(
            [bash, str(CLUSTERS / "slurm.sbatch"), *arguments],
            env={**self.environment, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


def test_bash_reads_the_batch_script() -> None:
    subprocess.run(["bash", "-n", str(CLUSTERS / "slurm.sbatch")], check=True)


def test_the_job_starts_a_cluster_runs_and_ends_it(slurm: Slurm) -> None:
    process = slurm.begin("--rounds", "2", "--set", "seed=1 2", CODE="3")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, out + err  # the run's own
    starts = [call for call in slurm.calls if "[ray] [start]" in call]
    assert len(starts) == 4
    (head,) = [call for call in starts if "[--head]" in call]
    assert "[--nodelist=n0]" in head and '[--resources={"rollout": 8}]' in head
    port = 20000 + 4711
    assert f"[--port={port}]" in head and "[--node-ip-address=10.9.8.7]" in head
    for node, role in (("n1", "rollout"), ("n2", "judge"), ("n3", "trainer")):
        (start,) = [call for call in starts if f"[--nodelist={node}]" in call]
        assert f'[--resources={{"{role}": 8}}]' in start and f"[--address=10.9.8.7:{port}]" in start
    assert all("token=64" in start for start in starts)
    (run,) = [call for call in slurm.calls if "[bcpg-cluster]" in call]
    assert f"[iterate] [--address] [10.9.8.7:{port}] [--rounds] [2] [--set] [seed=1 2]" in run
    assert slurm.calls.count("ended") == 4


def test_slurms_signal_reaches_the_run(slurm: Slurm, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    process = slurm.begin(HANG=str(hanging))
    while not hanging.exists():
        assert process.poll() is None
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err  # the run's own code for a clean stop
    assert slurm.calls.count("ended") == 4


def test_another_number_of_nodes_than_roles(tmp_path: Path) -> None:
    process = Slurm(tmp_path, nodes=3).begin()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the job has 3 nodes and ROLES names 4" in err

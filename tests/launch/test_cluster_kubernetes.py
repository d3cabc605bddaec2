"""The manifests: valid for Kubernetes and for Kubeflow Trainer, and each value where it belongs."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api import models

from pipeline.errors import InputError
from pipeline.orchestration import nodes_follower
from pipeline.orchestration.nodes import nodes_from
from pipeline.orchestration.processes import Interruption
from stages import __main__ as command
from tests.launch.conftest import TINY

VERSIONS = ("1.31", "1.33", "1.37")
"""Of Kubernetes: the first with a stable podFailurePolicy, with a stable successPolicy, and a new one."""

FLAGS = (
    "--nodes",
    "2",
    "--gpus-per-node",
    "4",
    "--cpus-per-node",
    "32",
    "--memory",
    "64Gi",
    "--grace",
    "300",
)

Manifest = Callable[..., list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIPTYCH_COMMAND", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("stages.cluster.LAUNCHER", tmp_path / "launch.sh")
    (tmp_path / "tiny.yaml").write_text(TINY)


@pytest.fixture
def manifest(capsys: pytest.CaptureFixture[str]) -> Manifest:
    """The documents of `k8s tiny.yaml --volume-claim shared ... --dry-run`."""

    def manifest(*words: str) -> list[dict[str, Any]]:
        assert command.main(["k8s", "tiny.yaml", "--volume-claim", "shared", *words, "--dry-run"]) == 0
        return list(yaml.safe_load_all(capsys.readouterr().out))

    return manifest


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("words", [(), (*FLAGS, "--namespace", "team", "--secret", "mlflow")])
def test_job_and_service_are_valid(manifest: Manifest, version: str, words: tuple[str, ...]) -> None:
    for document in manifest(*words):
        kubernetes_validate.validate(document, version, strict=True)


def test_validator_refuses_an_unknown_field(manifest: Manifest) -> None:
    _, job = manifest()
    job["spec"]["podFailurePolicies"] = job["spec"].pop("podFailurePolicy")
    with pytest.raises(kubernetes_validate.ValidationError, match="podFailurePolicies"):
        kubernetes_validate.validate(job, VERSIONS[0], strict=True)


@pytest.mark.parametrize("words", [(), (*FLAGS, "--namespace", "team", "--secret", "mlflow")])
def test_trainjob_and_its_runtime_are_what_trainers_own_classes_read(
    manifest: Manifest, words: tuple[str, ...]
) -> None:
    runtime, job = manifest(*words, "--kind", "trainjob")
    read = {
        "TrainingRuntime": models.TrainerV1alpha1TrainingRuntime.from_dict(runtime),
        "TrainJob": models.TrainerV1alpha1TrainJob.from_dict(job),
    }
    for document in (runtime, job):
        again = read[document["kind"]]
        assert again is not None
        assert again.to_dict() == document  # a field that they do not know would be lost
    assert job["spec"]["runtimeRef"] == {"kind": "TrainingRuntime", "name": runtime["metadata"]["name"]}
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    kubernetes_validate.validate(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": pod}, "1.33", strict=True
    )


def test_pods_find_the_lead_by_a_name_that_stays(manifest: Manifest) -> None:
    service, job = manifest("--nodes", "4", "--set", "name=Rooms_v1.5", "--namespace", "team")
    name = job["metadata"]["name"]
    assert name == service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == "rooms-v1-5"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["namespace"] == job["metadata"]["namespace"] == "team"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    said = environment(container)
    assert (said["NNODES"], said["RDZV_ENDPOINT"]) == ("4", "rooms-v1-5-0.rooms-v1-5:29400")
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert said["NODE_RANK"] == {"fieldRef": {"fieldPath": index}}
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (4, 4)
    assert job["spec"]["completionMode"] == "Indexed"


@pytest.mark.parametrize("kind", ["job", "trainjob"])
def test_preemption_counts_for_nothing_and_bad_input_ends_it(manifest: Manifest, kind: str) -> None:
    spec = manifest("--nodes", "2", "--kind", kind)[0 if kind == "trainjob" else 1]["spec"]
    if kind == "trainjob":
        spec = spec["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    (container,) = spec["template"]["spec"]["containers"]
    by_code = {rule["onExitCodes"]["values"][0]: rule for rule in rules if "onExitCodes" in rule}
    assert {code: rule["action"] for code, rule in by_code.items()} == {75: "Ignore", 2: "FailJob"}
    assert {rule["onExitCodes"]["containerName"] for rule in by_code.values()} == {container["name"]}
    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]} in rules
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["backoffLimit"] == 6


def test_resources_time_and_command_are_those_of_the_flags(manifest: Manifest) -> None:
    words = (
        "--set",
        "train.learning_rate=1e-4",
        "--until",
        "train",
        "--image",
        "me/it:2",
        "--secret",
        "mlflow",
    )
    _, job = manifest(*FLAGS, *words)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] == 300
    assert container["resources"] == {"limits": {"cpu": "32", "memory": "64Gi", "nvidia.com/gpu": "4"}}
    assert container["image"] == "me/it:2"
    assert container["envFrom"] == [{"secretRef": {"name": "mlflow"}}]
    assert environment(container)["OMP_NUM_THREADS"] == "8"  # 32 cores, a process per GPU
    given = ["tiny.yaml", "--set", "train.learning_rate=1e-4", "--until", "train"]
    assert container["command"] == ["./launch.sh", "multinode", *given, "--wait"]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "shared"}
    assert container["volumeMounts"][0]["mountPath"] == container["workingDir"] == "/workspace"


def test_trainjob_starts_the_same_command_with_trainers_variables(manifest: Manifest, tmp_path: Path) -> None:
    _, job = manifest("--nodes", "2", "--kind", "trainjob", "--root", "it's $HOME")
    trainer = job["spec"]["trainer"]
    (tmp_path / "launch.sh").write_text(
        '#!/bin/bash\necho "$NNODES $NODE_RANK $RDZV_ENDPOINT"; printf "<%s>" "$@"'
    )
    (tmp_path / "launch.sh").chmod(0o755)
    given = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "tiny-node-0-0.tiny"}
    ran = subprocess.run(
        [*trainer["command"], *trainer["args"]],
        env={**given, "PET_MASTER_PORT": "29400", "PATH": "/usr/bin:/bin", "HOME": "/root"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "2 1 tiny-node-0-0.tiny:29400\n<multinode><tiny.yaml><--root><it's $HOME><--wait>"


def test_tracking_server_goes_along_but_never_a_password(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    (container,) = manifest()[1]["spec"]["template"]["spec"]["containers"]
    assert environment(container)["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")
    assert command.main(["k8s", "tiny.yaml", "--volume-claim", "shared", "--dry-run"]) == 2
    said = capsys.readouterr()
    assert "MLFLOW_TRACKING_URI holds a password" in said.err
    assert "secret@" not in said.err + said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--root", "/scratch/runs"],
            "runs would go to /scratch/runs in each pod, which is not on the volume",
        ),
        (
            ["--root", "../../runs"],
            "which is not on the volume mounted at /workspace; give a --root below it",
        ),
        (["--checkout", "/opt/triptych"], "runs would go to /opt/triptych/runs in each pod"),
        (["--nodes", "3"], "train.batch 64 cannot be divided among 3 processes"),
        (["--force", "train"], "--force train: a job that is requeued would force it anew each time"),
        (["--cpus-per-task", "3"], "k8s: unknown argument --cpus-per-task; did you mean --cpus-per-node?"),
    ],
)
def test_what_cannot_run_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["k8s", "tiny.yaml", "--volume-claim", "shared", *words, "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_config_outside_the_checkout_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stages.cluster.LAUNCHER", tmp_path / "checkout/launch.sh")
    assert command.main(["k8s", "tiny.yaml", "--volume-claim", "shared", "--dry-run"]) == 2
    assert "tiny.yaml: lies outside the checkout" in capsys.readouterr().err


def test_checkout_in_the_image_keeps_its_runs_on_the_volume(manifest: Manifest) -> None:
    _, job = manifest("--checkout", "/opt/triptych", "--root", "/workspace/runs")
    assert job["spec"]["template"]["spec"]["containers"][0]["workingDir"] == "/opt/triptych"


@pytest.mark.parametrize("answer", ["accepted", "refused", "missing"])
def test_kubectl_is_given_the_manifest(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if answer != "missing":
        ends = "echo job.batch/tiny created" if answer == "accepted" else "echo Unauthorized >&2; exit 1"
        (tmp_path / "kubectl").write_text(f'#!/bin/sh\necho "$*" >words\n/bin/cat >manifest\n{ends}\n')
        (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    code = command.main(["k8s", "tiny.yaml", "--volume-claim", "shared"])
    said = capsys.readouterr().err
    if answer == "missing":
        assert (code, "kubectl: not found; install it" in said) == (2, True)
        return
    assert (tmp_path / "words").read_text() == "apply -f -\n"
    assert [document["kind"] for document in yaml.safe_load_all((tmp_path / "manifest").read_text())] == [
        "Service",
        "Job",
    ]
    expected = (
        (0, "job.batch/tiny created") if answer == "accepted" else (2, "refused the manifest: Unauthorized")
    )
    assert code == expected[0]
    assert expected[1] in said


def test_values_cannot_break_out_of_the_manifest(manifest: Manifest) -> None:
    odd = 'x"\n  evil: true # '
    _, job = manifest("--image", odd)
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == odd


def test_pod_that_is_first_waits_until_the_lead_has_a_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: list[OSError | str] = [OSError(-2, "Name or service not known")] * 3 + ["10.0.0.5"]
    monkeypatch.setattr(nodes_follower, "POLL_S", 0.001)

    def address(host: str, port: int) -> str:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(nodes_follower, "address_towards", address)
    lead = nodes_from({"NNODES": "2", "NODE_RANK": "1", "RDZV_ENDPOINT": "tiny-0.tiny:29400"}, "tiny")
    assert lead is not None
    assert nodes_follower._address(lead, Interruption()) == "10.0.0.5"
    said = "waiting until tiny-0.tiny can be reached from here (Name or service not known)"
    assert capsys.readouterr().err.count(said) == 1
    answers[:] = [OSError(-2, "Name or service not known")] * 9
    with pytest.raises(InputError, match=re.escape("RDZV_ENDPOINT=tiny-0.tiny:29400")):
        nodes_follower._address(replace(lead, start_timeout_s=0), Interruption())

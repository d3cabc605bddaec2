"""A run on Kubernetes: the manifest that `kubectl` takes, as an indexed Job or as Kubeflow's TrainJob."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from pipeline.errors import InputError
from pipeline.orchestration.cluster import ClusterRun, fill
from pipeline.orchestration.nodes import DEFAULT_PORT

Kind = Literal["job", "trainjob"]

TEMPLATES: dict[Kind, str] = {"job": "k8s-job.yaml", "trainjob": "k8s-trainjob.yaml"}
LONGEST_NAME = 50
"""Of a host name's 63 letters some are left for what Kubernetes and Trainer append."""

FAILURES_OF_ALL = 3


@dataclass(frozen=True)
class KubernetesJob:
    """What is asked of Kubernetes.

    Attributes:
        run: What every pod starts.
        image: Container image; Python 3.11 or newer, bash and flock are what it must have.
        claim: Persistent volume claim that every pod mounts.
        mount: Where it is mounted.
        checkout: Where the checkout lies in a pod.
        namespace: None for kubectl's current one.
        secret: Secret whose keys become environment variables, or None.
        cpus: Of each pod, or None.
        memory: Of each pod as Kubernetes writes it (`64Gi`), or None.
        grace_s: Between TERM and KILL.
        kind: A Job, or Kubeflow's TrainJob.
    """

    run: ClusterRun
    image: str
    claim: str
    mount: PurePosixPath
    checkout: PurePosixPath
    namespace: str | None = None
    secret: str | None = None
    cpus: int | None = None
    memory: str | None = None
    grace_s: int = 120
    kind: Kind = "job"

    @property
    def name(self) -> str:
        """The run's name, as Kubernetes allows names."""
        return re.sub(r"[^a-z0-9]+", "-", self.run.config.name.lower()).strip("-")[:LONGEST_NAME].rstrip("-")

    def manifest(self) -> str:
        """The manifest.

        Raises:
            InputError: If MLFLOW_TRACKING_URI, which goes into it, holds a password.
        """
        return fill(
            TEMPLATES[self.kind],
            {
                "NAME": _text(self.name),
                "NAMESPACE": f"namespace: {_text(self.namespace)}" if self.namespace else "",
                "NODES": str(self.run.nodes),
                "BACKOFF": str(FAILURES_OF_ALL * self.run.nodes),
                "GRACE": str(self.grace_s),
                "IMAGE": _text(self.image),
                "CHECKOUT": _text(str(self.checkout)),
                "COMMAND": json.dumps(self.run.command("./launch.sh"), ensure_ascii=False),
                "ENDPOINT": _text(f"{self.name}-0.{self.name}:{DEFAULT_PORT}"),
                "ENVIRONMENT": self._environment(),
                "SECRET": f"envFrom:\n  - secretRef: {{name: {_text(self.secret)}}}" if self.secret else "",
                "RESOURCES": self._resources("resources"),
                "RESOURCES_PER_NODE": self._resources("resourcesPerNode"),
                "MOUNT": _text(str(self.mount)),
                "CLAIM": _text(self.claim),
            },
        )

    def apply(self) -> str:
        """Hand the manifest to Kubernetes.

        Returns:
            What kubectl says.

        Raises:
            InputError: If there is no kubectl here, or it refuses.
        """
        manifest = self.manifest()
        if shutil.which("kubectl") is None:
            raise InputError(
                "kubectl: not found; install it and give it access to the cluster, or add --dry-run to see "
                "the manifest and apply it elsewhere"
            )
        answer = subprocess.run(
            ["kubectl", "apply", "-f", "-"], input=manifest, capture_output=True, text=True, check=False
        )
        if answer.returncode != 0:
            raise InputError(f"kubectl refused the manifest: {answer.stderr.strip()}")
        return answer.stdout.strip()

    def _environment(self) -> str:
        values = {}
        if self.cpus:
            # A limit of cores is not seen from inside, where every core of the machine seems free.
            on_each = self.run.all_processes() // self.run.nodes
            values["OMP_NUM_THREADS"] = str(max(1, self.cpus // on_each))
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            if urlsplit(uri).password:
                raise InputError(
                    "MLFLOW_TRACKING_URI holds a password, which a manifest would show to everybody; put it "
                    "into a Secret (kubectl create secret generic NAME --from-literal=...), unset it here "
                    "and add --secret NAME"
                )
            values["MLFLOW_TRACKING_URI"] = uri
        return "\n".join(f"- name: {name}\n  value: {_text(value)}" for name, value in values.items())

    def _resources(self, key: str) -> str:
        asked = {"cpu": self.cpus, "memory": self.memory, "nvidia.com/gpu": self.run.gpus}
        lines = [f"    {name}: {_text(str(value))}" for name, value in asked.items() if value is not None]
        return "\n".join([f"{key}:", "  limits:", *lines]) if lines else ""


def _text(value: str) -> str:
    """A YAML string, whatever is in it."""
    return json.dumps(value, ensure_ascii=False)

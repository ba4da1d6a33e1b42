"""Cluster resources of each step: CPU, memory, accelerator, node pool, retries and deadline.

The local runner ignores all of them but the environment variables.
"""

from dataclasses import dataclass

from kfp import dsl, kubernetes

from components.notification.component import SECRET
from components.scorer.run.accelerators import NODE_VARIABLE
from components.scorer.run.step_status import RUN_ID

HOUR = 3600

RUN_AS_USER = 10001
"""User and group id of the steps' images, set explicitly so that a cluster need not trust the images."""

POD_LABEL = ("app.kubernetes.io/name", "portrait-scorer-steps")
"""Pod label by which the network policy of the steps selects their pods."""

PIPELINE_CONFIG = dsl.PipelineConfig(
    ttl_seconds_after_success=24 * HOUR,  # the workflow and its pods are deleted; the run's record and artifacts stay
    ttl_seconds_after_failure=7 * 24 * HOUR,  # long enough to inspect the pods after a weekend
    active_deadline_seconds=72 * HOUR,  # deadline of the run: above the sum of the steps' deadlines
)

LOG_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # TensorFlow's startup lines bury the step's own lines
    "GRPC_VERBOSITY": "ERROR",  # likewise the lines of the storage client's transport
    "PYTHONUNBUFFERED": "1",  # progress appears at once
}


@dataclass(frozen=True)
class ClusterDefaults:
    """Cluster settings that are compiled in, since Kubeflow has no parameters for them.

    To change them, edit ``CLUSTER`` below and compile.
    """

    queue: str = ""  # Kueue LocalQueue in which pretraining and training wait for their quota; "": no queue
    priority: str = ""  # Kueue WorkloadPriorityClass of pretraining and training; "": the queue's default
    pull_secrets: tuple[str, ...] = ()  # Kubernetes Secrets for image pulls; GKE's own registry needs none
    # Labels of nodes with GPUs, on GKE, by NVIDIA's operator and on EKS. All steps without accelerators avoid such
    # nodes, tainted or not. (): every node has a GPU.
    gpu_labels: tuple[str, ...] = (
        "cloud.google.com/gke-accelerator",
        "nvidia.com/gpu.present",
        "k8s.amazonaws.com/accelerator",
    )


CLUSTER = ClusterDefaults()


@dataclass(frozen=True)
class StepResources:
    """Resource requests, retries and deadline of a step's pod."""

    cpu: str
    memory: str
    deadline: int  # seconds for one attempt
    retries: int = 2  # pods may be preempted; a retried step resumes its work
    shared_memory: str = ""  # size of /dev/shm; "": the container's default
    accelerated: bool = False  # True if the step may run on nodes with GPUs


# The memory limit equals the request, so that other pods' use kills no step. CPU has a request only, so that idle
# cores are used. Sized for 200,000 unlabelled and 30,000 rated photos.
INGESTION = StepResources(cpu="8", memory="16Gi", deadline=12 * HOUR)
VALIDATION = StepResources(cpu="4", memory="8Gi", deadline=2 * HOUR)
PRETRAINING = StepResources(
    cpu="8", memory="32Gi", deadline=24 * HOUR, retries=4, shared_memory="8Gi", accelerated=True
)
TRAINING = StepResources(cpu="8", memory="32Gi", deadline=12 * HOUR, retries=4, shared_memory="8Gi", accelerated=True)
EVALUATION = StepResources(cpu="4", memory="16Gi", deadline=4 * HOUR)
PUSH = StepResources(cpu="2", memory="8Gi", deadline=1 * HOUR)
NOTIFICATION = StepResources(cpu="250m", memory="1Gi", deadline=HOUR // 4)


def set_resources(
    task: dsl.PipelineTask, resources: StepResources, cluster: ClusterDefaults = CLUSTER
) -> dsl.PipelineTask:
    """Set a step's resources, retries, deadline, security context, pod label and environment variables.

    The step does not run as root, and avoids GPU nodes unless it is ``accelerated``. The variable named by ``RUN_ID``
    holds the run's id. Kubeflow itself drops all capabilities and forbids privilege escalation; it offers no setting
    for a read-only root file system.
    """
    task.set_cpu_request(resources.cpu).set_memory_request(resources.memory).set_memory_limit(resources.memory)
    task.set_retry(resources.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="900s")
    kubernetes.set_timeout(task, resources.deadline)
    kubernetes.set_security_context(task, run_as_user=RUN_AS_USER, run_as_group=RUN_AS_USER, run_as_non_root=True)
    kubernetes.add_pod_label(task, *POD_LABEL)
    kubernetes.use_field_path_as_env(task, RUN_ID, "metadata.labels['pipeline/runid']")
    for variable, value in LOG_ENVIRONMENT.items():
        task.set_env_variable(variable, value)
    if resources.shared_memory:  # the default of 64 MiB is too small for the communication of several GPUs
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=resources.shared_memory)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))
    if cluster.gpu_labels and not resources.accelerated:
        no_gpu_labels = [{"key": label, "operator": "DoesNotExist"} for label in cluster.gpu_labels]
        kubernetes.add_node_affinity(task, match_expressions=no_gpu_labels)
    return task


def add_accelerators(
    task: dsl.PipelineTask,
    accelerator: str,
    count: str,
    node_selector: dict,
    tolerations: list,
    cluster: ClusterDefaults = CLUSTER,
) -> dsl.PipelineTask:
    """Set a step's accelerators and node pool from pipeline parameters, and its Kueue queue from ``cluster``."""
    labels = {"kueue.x-k8s.io/queue-name": cluster.queue, "kueue.x-k8s.io/priority-class": cluster.priority}
    for label, value in labels.items():
        if value:
            kubernetes.add_pod_label(task, label, value)
    kubernetes.use_field_path_as_env(task, NODE_VARIABLE, "spec.nodeName")
    task.set_accelerator_type(accelerator).set_accelerator_limit(count)
    task.register_pipeline_channels([accelerator, count])  # else the exit handler's inner DAG lacks these inputs
    kubernetes.add_node_selector_json(task, node_selector)
    # GKE adds this toleration to pods that request a GPU; other clusters do not, and mostly have the same taint.
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    # Spot nodes may vanish; these steps resume from their last epoch. The node selector decides on spot nodes.
    kubernetes.add_toleration(
        task, key="cloud.google.com/gke-spot", operator="Equal", value="true", effect="NoSchedule"
    )
    return kubernetes.add_toleration_json(task, tolerations)


def add_notification_secret(task: dsl.PipelineTask, secret: str) -> dsl.PipelineTask:
    """Pass the notification addresses to a step, from the optional Kubernetes Secret named by a pipeline parameter."""
    return kubernetes.use_secret_as_env(task, secret, SECRET, optional=True)  # each key is optional too


def disable_caching(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Disable the execution cache for a step that reads or changes state outside of the cache key."""
    return task.set_caching_options(False)

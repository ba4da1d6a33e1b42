"""What each step asks of the cluster: CPU, memory, accelerator, node pool, retries and deadline.

The local runner heeds none of this but the environment variables.
"""

from dataclasses import dataclass

from kfp import dsl, kubernetes

from components.notification.component import SECRET
from components.scorer.run.accelerators import NODE
from components.scorer.run.step_status import RUN_ID

HOUR = 3600

USER = 10001
"""User and group that the images of the steps run as, so that a cluster need not take the images' word for it."""

LABEL = ("app.kubernetes.io/name", "portrait-scorer-steps")
"""By which the network policy of the steps chooses their pods."""

LIFETIME = dsl.PipelineConfig(
    ttl_seconds_after_success=24 * HOUR,  # of the workflow and its pods; the run's record and artifacts stay
    ttl_seconds_after_failure=7 * 24 * HOUR,  # long enough to look into the pods after a weekend
    active_deadline_seconds=72 * HOUR,  # of the whole run: above the steps' own deadlines together
)

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # TensorFlow's startup lines bury the step's own
    "GRPC_VERBOSITY": "ERROR",  # the same for the storage client's transport
    "PYTHONUNBUFFERED": "1",  # progress is seen when it is made
}


@dataclass(frozen=True)
class Cluster:
    """What is compiled in, for Kubeflow takes no parameter for it: change it in ``CLUSTER`` below, and compile."""

    queue: str = ""  # LocalQueue of Kueue in which pretraining and training wait for their quota; "": no queue
    priority: str = ""  # WorkloadPriorityClass of Kueue that they wait with; "": the queue's own
    pull_secrets: tuple[str, ...] = ()  # Kubernetes Secrets to pull the images with; a registry beside GKE needs none
    # Labels that nodes with GPUs have, on GKE, by NVIDIA's operator and on EKS: all other steps keep off such nodes,
    # tainted or not. (): where every node has a GPU.
    gpu_labels: tuple[str, ...] = (
        "cloud.google.com/gke-accelerator",
        "nvidia.com/gpu.present",
        "k8s.amazonaws.com/accelerator",
    )


CLUSTER = Cluster()


@dataclass(frozen=True)
class Needs:
    """What a step's pod asks for and how often and long it may try."""

    cpu: str
    memory: str
    deadline: int  # seconds, of one attempt
    retries: int = 2  # of a step that can go on: pods are preempted
    shared_memory: str = ""  # size of /dev/shm, where the step uses it
    accelerated: bool = False  # whether the step may go to nodes with GPUs


# Memory is requested and limited alike, so that no neighbour's use kills a step; CPU is requested only, so that
# idle cores are used. Sized for 200,000 unlabelled and 30,000 rated photos.
INGESTION = Needs(cpu="8", memory="16Gi", deadline=12 * HOUR)
VALIDATION = Needs(cpu="4", memory="8Gi", deadline=2 * HOUR)
PRETRAINING = Needs(cpu="8", memory="32Gi", deadline=24 * HOUR, retries=4, shared_memory="8Gi", accelerated=True)
TRAINING = Needs(cpu="8", memory="32Gi", deadline=12 * HOUR, retries=4, shared_memory="8Gi", accelerated=True)
EVALUATION = Needs(cpu="4", memory="16Gi", deadline=4 * HOUR)
PUSH = Needs(cpu="2", memory="8Gi", deadline=1 * HOUR)
NOTIFICATION = Needs(cpu="250m", memory="1Gi", deadline=HOUR // 4)


def give(task: dsl.PipelineTask, needs: Needs, cluster: Cluster = CLUSTER) -> dsl.PipelineTask:
    """Ask for what the step needs, keep it off the GPUs of others and from being root, and tell it which run it is of.

    Kubeflow itself takes all capabilities from a step and lets it gain none; a root file system that is read-only it
    cannot be asked for.
    """
    task.set_cpu_request(needs.cpu).set_memory_request(needs.memory).set_memory_limit(needs.memory)
    task.set_retry(needs.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="900s")
    kubernetes.set_timeout(task, needs.deadline)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.add_pod_label(task, *LABEL)
    kubernetes.use_field_path_as_env(task, RUN_ID, "metadata.labels['pipeline/runid']")
    for variable, value in QUIET.items():
        task.set_env_variable(variable, value)
    if needs.shared_memory:  # a container's own 64 MiB is too little for several GPUs to talk through
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=needs.shared_memory)
    if cluster.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.pull_secrets))
    if cluster.gpu_labels and not needs.accelerated:
        nowhere = [{"key": label, "operator": "DoesNotExist"} for label in cluster.gpu_labels]
        kubernetes.add_node_affinity(task, match_expressions=nowhere)
    return task


def accelerate(
    task: dsl.PipelineTask,
    accelerator: str,
    count: str,
    node_selector: dict,
    tolerations: list,
    cluster: Cluster = CLUSTER,
) -> dsl.PipelineTask:
    """Ask for accelerators and their node pool, by pipeline parameters, and for a place in the queue for them."""
    labels = {"kueue.x-k8s.io/queue-name": cluster.queue, "kueue.x-k8s.io/priority-class": cluster.priority}
    for label, value in labels.items():
        if value:
            kubernetes.add_pod_label(task, label, value)
    kubernetes.use_field_path_as_env(task, NODE, "spec.nodeName")
    task.set_accelerator_type(accelerator).set_accelerator_limit(count)
    task.register_pipeline_channels([accelerator, count])  # else the exit handler's inner DAG lacks these inputs
    kubernetes.add_node_selector_json(task, node_selector)
    # GKE gives this one to pods that ask for a GPU; other clusters, whose GPU nodes are mostly tainted alike, do not.
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    # Spot nodes may vanish, and these steps go on from their last epoch; the node selector says whether they go there.
    kubernetes.add_toleration(
        task, key="cloud.google.com/gke-spot", operator="Equal", value="true", effect="NoSchedule"
    )
    return kubernetes.add_toleration_json(task, tolerations)


def tell(task: dsl.PipelineTask, secret: str) -> dsl.PipelineTask:
    """Give the step whom to tell, from the Kubernetes Secret named by a pipeline parameter, where there is one."""
    return kubernetes.use_secret_as_env(task, secret, SECRET, optional=True)  # so is each of its keys


def uncached(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Run the step each time: it reads or changes what the key of the execution cache does not hold."""
    return task.set_caching_options(False)

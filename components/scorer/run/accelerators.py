"""Check that a step sees the accelerators it requested: silent training on CPUs costs days."""

import os

NODE_VARIABLE = "ACCELERATOR_NODE"
"""The environment variable with the cluster node of a step that requested accelerators.

Kubernetes sets the variable. In a local run the variable is missing, and no accelerators were requested.
"""


def require_accelerators(accelerator: str, count: str) -> None:
    """Raise RuntimeError if TensorFlow sees fewer GPUs than the step's pod requested.

    Args:
        accelerator: Kubernetes resource name, e.g. ``nvidia.com/gpu`` or ``nvidia.com/mig-1g.10gb``; "" if the step
            requested none. Accelerators other than GPUs are not checked.
        count: Number of requested accelerators, as text.

    Raises:
        RuntimeError: On a cluster, TensorFlow sees fewer GPUs; the message names the numbers and the node.
    """
    node, kind = os.environ.get(NODE_VARIABLE, ""), accelerator.rpartition("/")[2]
    slices = kind.startswith("mig-")
    if not node or not ("gpu" in kind or slices):
        return
    wanted = 1 if slices else int(count)  # a process sees one MIG slice of a card, even if its pod has several
    import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus < wanted:
        raise RuntimeError(
            f"expected {wanted} GPU{'' if wanted == 1 else 's'}, as the step asked for {accelerator}, and TensorFlow "
            f"sees {gpus} on the node {node}: look at the node's driver and at the step's image (its target has to be "
            'gpu); to train on CPUs, set accelerator to ""'
        )
    print(f"accelerators: {gpus} GPU{'' if gpus == 1 else 's'} on the node {node}", flush=True)

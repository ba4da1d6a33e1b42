"""Whether a step that was given accelerators sees them: training on CPUs in silence costs days."""

import os

NODE = "ACCELERATOR_NODE"
"""The environment variable that names the cluster node of a step that asked for accelerators.

Kubernetes fills it in. On this machine it is not there, and nobody was asked for any accelerator.
"""


def expect(accelerator: str, count: str) -> None:
    """Refuse to go on without the GPUs that the step's pod asked for.

    Args:
        accelerator: Kubernetes resource name, e.g. ``nvidia.com/gpu`` or ``nvidia.com/mig-1g.10gb``; empty where none
            was asked for. Accelerators that are no GPUs are not TensorFlow's to count.
        count: how many, as a text.

    Raises:
        RuntimeError: on a cluster, fewer are seen; says how many, where, and what to look at.
    """
    node, kind = os.environ.get(NODE, ""), accelerator.rpartition("/")[2]
    slices = kind.startswith("mig-")
    if not node or not ("gpu" in kind or slices):
        return
    wanted = 1 if slices else int(count)  # a process sees one slice of a card, however many it has
    import tensorflow as tf

    seen = len(tf.config.list_physical_devices("GPU"))
    if seen < wanted:
        raise RuntimeError(
            f"expected {wanted} GPU{'' if wanted == 1 else 's'}, as the step asked for {accelerator}, and TensorFlow "
            f"sees {seen} on the node {node}: look at the node's driver and at the step's image (its target has to be "
            'gpu); to train on CPUs, set accelerator to ""'
        )
    print(f"accelerators: {seen} GPU{'' if seen == 1 else 's'} on the node {node}", flush=True)

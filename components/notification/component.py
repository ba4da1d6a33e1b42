"""The contract of notification with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_CPU


@dsl.component(base_image=STEPS_CPU, install_kfp_package=False)
def notification(status: dsl.PipelineTaskFinalStatus, workspace: str, run_name: str):
    """Tell people how the run ended, in the log and through the webhook in the environment variable WEBHOOK.

    The webhook is no parameter: it is a secret, and Kubeflow shows parameters in its pages and in the log.
    """
    import os

    from components.notification.notify import notify
    from components.scorer.journal import this_run

    notify(
        status.state, this_run(workspace),
        message=status.error_message or "", run_name=run_name, webhook=os.environ.get("WEBHOOK", ""),
    )  # fmt: skip

"""The contract of notification with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_CPU

SECRET = {
    "url": "WEBHOOK",
    "signed-url": "SIGNED_WEBHOOK",
    "signing-secret": "SIGNING_SECRET",
    "smtp-host": "SMTP_HOST",
    "smtp-port": "SMTP_PORT",
    "smtp-security": "SMTP_SECURITY",
    "smtp-user": "SMTP_USER",
    "smtp-password": "SMTP_PASSWORD",
    "mail-from": "MAIL_FROM",
    "mail-to": "MAIL_TO",
}
"""Optional keys of the Kubernetes Secret, and the environment variables that hold their values."""


@dsl.component(base_image=STEPS_CPU, install_kfp_package=False)
def notification(status: dsl.PipelineTaskFinalStatus, workspace: str, run_name: str):
    """Notify people how the run ended, in the log and through the senders that the environment configures.

    Recipients are not parameters: addresses and passwords are secrets, and Kubeflow shows parameters in its pages and
    logs.
    """
    import os

    from components.notification.notify import notify
    from components.notification.senders import read_recipients
    from components.scorer.run.step_status import current_run_paths

    notify(
        status.state, current_run_paths(workspace),
        message=status.error_message or "", run_name=run_name, recipients=read_recipients(os.environ),
    )  # fmt: skip

"""The contract of push with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_CPU


@dsl.component(base_image=STEPS_CPU, install_kfp_package=False)
def push(scorer: dsl.Input[dsl.Model], workspace: str, models: str, name: str) -> str:
    """Publish the scorer as a version and make it the champion; returns the version's URI."""
    from components.push.push import push
    from components.scorer.journal import step

    with step("push", workspace) as place:
        return push(scorer.path, models=models, name=name, workspace=place)

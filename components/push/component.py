"""The contract of push with Kubeflow."""

from kfp import dsl

from images.digests import STEPS_CPU


@dsl.component(base_image=STEPS_CPU, install_kfp_package=False)
def push(dataset: dsl.Input[dsl.Dataset], scorer: dsl.Input[dsl.Model], workspace: str, models: str, name: str) -> str:
    """Publish the scorer as a version and make it the champion; returns the version's URI."""
    from components.scorer.journal import step

    with step("push", workspace) as place:
        from itertools import islice

        from components.push.push import push
        from components.scorer.photos import records

        photos = [record["photo"] for record in islice(records(dataset.path, "test"), 16)]
        return push(scorer.path, models=models, name=name, workspace=place, photos=photos)

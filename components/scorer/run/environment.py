"""Removal of the environment variables that Kubernetes adds for Services and that look like settings."""

import re
from collections.abc import Mapping


def without_service_addresses(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the ``*_PORT`` variables that hold addresses of Kubernetes Services.

    For a Service called ``smtp``, Kubernetes sets ``SMTP_PORT=tcp://10.96.12.7:25`` in a pod, unless the pod's
    specification says ``enableServiceLinks: false``. The other variables of a Service (``SMTP_SERVICE_HOST``, …) have
    endings that no setting of this project has.
    Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    return {
        name: value
        for name, value in environment.items()
        if not (name.endswith("_PORT") and re.match("(tcp|udp|sctp)://", value))
    }

"""The environment without what Kubernetes puts there: variables that look like a setting and are none."""

import re
from collections.abc import Mapping


def without_services(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the addresses of Services.

    Beside a Service called ``smtp`` a pod finds ``SMTP_PORT=tcp://10.96.12.7:25``, unless its specification says
    ``enableServiceLinks: false``. The other names that Kubernetes makes of it (``SMTP_SERVICE_HOST``, …) end as no
    setting of this project does.
    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    return {
        name: value
        for name, value in environment.items()
        if not (name.endswith("_PORT") and re.match("(tcp|udp|sctp)://", value))
    }

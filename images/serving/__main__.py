"""``python -m images.serving``: see `supervisor`."""

import sys

from images.serving.process.supervisor import main

sys.exit(main())

"""Entry point of ``python -m images.serving``; see `process.supervisor`."""

import sys

from images.serving.process.supervisor import main

sys.exit(main())

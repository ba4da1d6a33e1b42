"""``python -m images.serving``: see `launch`."""

import sys

from images.serving.process.supervisor import main

sys.exit(main())

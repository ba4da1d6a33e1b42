"""``python -m images.serving``: see `launch`."""

import sys

from images.serving.launch import main

sys.exit(main())

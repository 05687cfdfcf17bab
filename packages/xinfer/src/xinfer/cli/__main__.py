"""``python -m xinfer.cli``."""

import sys

from xinfer.cli.app import main

sys.exit(main())

import sys

from ignition_hub.cli import main

sys.exit(main())

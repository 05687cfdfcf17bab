import sys

from ignition_client.cli.app import main

sys.exit(main())

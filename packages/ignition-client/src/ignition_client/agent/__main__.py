import sys

from ignition_client.agent.command import main

sys.exit(main())

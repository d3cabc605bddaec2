"""The `triptych` command with fake stages: `python -m tests.launch.fake_command run CONFIG`."""

import sys

from stages import __main__ as command
from stages import machines

if __name__ == "__main__":
    machines.WORKER = "tests.launch.fake_worker"
    sys.exit(command.main())

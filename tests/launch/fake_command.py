"""The `triptych` command with fake stages: `python -m tests.launch.fake_command run CONFIG`.

FAKE_ALONE names a stage that is not divided among processes.
"""

import os
import sys

from pipeline.orchestration import supervisor
from pipeline.orchestration.stage import STAGES
from stages import __main__ as command
from stages import machines

if __name__ == "__main__":
    machines.WORKER = "tests.launch.fake_worker"
    alone = os.environ.get("FAKE_ALONE")
    supervisor.DISTRIBUTED = tuple(stage for stage in STAGES if stage != alone)
    sys.exit(command.main())

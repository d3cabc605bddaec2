"""The second of two processes refuses its input; the first loses contact with it."""

import os
import sys
import time
from pathlib import Path

from pipeline.orchestration.processes import BAD_INPUT, FAILED_ELSEWHERE

refused = Path("refused")
if os.environ["RANK"] == "1":
    with refused.open("a") as file:
        file.write("1")
    sys.exit(BAD_INPUT)
while not refused.exists():
    time.sleep(0.02)
sys.exit(FAILED_ELSEWHERE)

"""What the cursor learns from the supervisor's calls and from the ledger."""

from pipeline.orchestration import mirror_files as files
from pipeline.orchestration.ledger import RECORD, Record
from pipeline.orchestration.mirror import Upload
from pipeline.orchestration.mirror_cursor import Execution, RunState, now_ms
from pipeline.orchestration.stage import STAGES, StageName


def note_start(upload: Upload, stage: StageName) -> None:
    """A stage runs: a new execution, unless the ledger says that it continues one."""
    cursor = upload.file.cursor
    cursor.parent.state, cursor.parent.ended_ms = "RUNNING", None
    if not cursor.parent.run:
        upload.created_now.add(cursor.parent.token)
    execution = Execution(stage, key="")
    upload.created_now.add(execution.token)
    cursor.executions.append(execution)
    look_up_keys(upload)


def lack_keys(upload: Upload) -> bool:
    """Whether it is not known yet what a running execution makes."""
    return any(not e.key and e.state == "RUNNING" for e in upload.file.cursor.executions)


def look_up_keys(upload: Upload) -> None:
    """Learn which results the running executions make, and whether one continues an earlier one."""
    for execution in list(upload.file.cursor.executions):
        if execution.state == "RUNNING" and not execution.key:
            record = files.live_record(upload.run_directory, upload.config, execution.stage)
            if record and record.state == "running":
                _identify(upload, execution, record)


def _identify(upload: Upload, execution: Execution, record: Record) -> None:
    executions = upload.file.cursor.executions
    earlier = next(
        (e for e in reversed(executions) if e.stage == execution.stage and e is not execution), None
    )
    if earlier and earlier.key == record.key and earlier.state != "FINISHED" and execution.run is None:
        executions.remove(execution)
        earlier.state, earlier.ended_ms, earlier.attempt = (
            execution.state,
            execution.ended_ms,
            record.attempts,
        )
        return
    execution.key, execution.attempt = record.key, record.attempts
    for other in executions:
        if other.stage == execution.stage and other is not execution:
            other.superseded = True


def note_end(upload: Upload, stage: StageName, state: RunState) -> None:
    """A stage ended."""
    execution = upload.file.cursor.latest(stage)
    if execution is None or execution.state != "RUNNING":
        return
    if not execution.key:
        record = files.live_record(upload.run_directory, upload.config, stage)
        if record:
            _identify(upload, execution, record)
            execution = upload.file.cursor.latest(stage)
            assert execution is not None
    execution.state, execution.ended_ms = state, now_ms()


def _state_on_disk(upload: Upload, execution: Execution) -> RunState:
    directory = files.stage_directory(upload.run_directory, execution.stage, execution.key)
    record = files.peek(directory) if directory else None
    if record and record.state == "complete":
        return "FINISHED"
    record = files.live_record(upload.run_directory, upload.config, execution.stage)
    return "FAILED" if record and record.key == execution.key and record.state == "failed" else "KILLED"


def _unknown_result(upload: Upload, stage: StageName) -> Record | None:
    """A complete result no execution is known of: tracking was off, or went to another server."""
    record = files.peek(upload.run_directory / stage)
    if record is None or record.state != "complete":
        return None
    known = any(e.stage == stage and e.key == record.key for e in upload.file.cursor.executions)
    return None if known else record


def _adopt(upload: Upload, record: Record) -> None:
    directory = upload.run_directory / record.stage
    ended_ms = int((directory / RECORD).stat().st_mtime * 1000)
    seconds = files.summary(directory).get("timing.seconds", 0.0)
    execution = Execution(
        record.stage,
        record.key,
        state="FINISHED",
        attempt=record.attempts,
        started_ms=ended_ms - round(1000 * seconds),
        ended_ms=ended_ms,
    )
    for other in upload.file.cursor.executions:
        other.superseded = other.superseded or other.stage == record.stage
    upload.file.cursor.executions.append(execution)


def _notice_finished(upload: Upload) -> bool:
    """Finish executions whose process was killed after its result was complete, which a later run keeps.

    Returns:
        Whether there was one.
    """
    found = False
    for stage in STAGES:
        execution = upload.file.cursor.latest(stage)
        if execution is None or execution.state not in ("KILLED", "FAILED"):
            continue
        directory = files.stage_directory(upload.run_directory, stage, execution.key)
        record = files.peek(directory) if directory else None
        if record and record.state == "complete" and record.attempts == execution.attempt:
            execution.state, execution.ended_ms, found = "FINISHED", now_ms(), True
    return found


def settle_parent(upload: Upload) -> None:
    """No stage runs any more: the parent run ends as the worst of its stages."""
    cursor = upload.file.cursor
    finished = _notice_finished(upload)
    if (cursor.parent.state != "RUNNING" and not finished) or not cursor.executions:
        return
    ends = [latest.state for stage in STAGES if (latest := cursor.latest(stage))]
    cursor.parent.state = "FAILED" if "FAILED" in ends else "FINISHED"
    if "FAILED" not in ends and ("KILLED" in ends or "RUNNING" in ends):
        cursor.parent.state = "KILLED"
    cursor.parent.ended_ms = now_ms()


def settle(upload: Upload, *, adopt: bool) -> bool:
    """Decide from the ledger how executions ended whose process is gone.

    Args:
        upload: Nobody else works on it.
        adopt: Also add finished stages nobody told us of.

    Returns:
        Whether anything changed.
    """
    cursor = upload.file.cursor
    left = [execution for execution in cursor.executions if execution.state == "RUNNING"]
    for execution in left:
        execution.state = _state_on_disk(upload, execution)
        execution.ended_ms = now_ms()
    found = [record for stage in STAGES if adopt and (record := _unknown_result(upload, stage))]
    for record in found:
        _adopt(upload, record)
    before = [execution.state for execution in cursor.executions]
    parent_runs = bool(cursor.executions) and cursor.parent.state == "RUNNING"
    settle_parent(upload)
    changed = bool(left or found) or parent_runs or before != [entry.state for entry in cursor.executions]
    if changed:
        upload.file.save()
    return changed

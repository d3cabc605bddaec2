"""Uploading: make the runs on the tracking server equal to the run directory, a step at a time.

Every step is safe to repeat: done twice it leaves what doing it once leaves. So being killed between a
step and the note of it in `mlflow.json` costs a repetition, never a gap or a duplicate.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import Config
from pipeline.orchestration import mirror_files as files
from pipeline.orchestration.ledger import Record
from pipeline.orchestration.mirror_cursor import CursorFile, Execution, Parent, Sent, now_ms
from pipeline.orchestration.mirror_dataset import USES, lineage
from pipeline.orchestration.mirror_notes import origin_tags, parent_note, stage_note
from pipeline.orchestration.mirror_result import push_result, unsent_files
from pipeline.orchestration.mlflow_store import Store
from pipeline.orchestration.stage import STAGES

LINES_PER_STEP = 500

PICTURES_ONLY = ("shard", "analyze")
"""Stages whose parameters are left to config.yaml: cards list them above a picture, which is cut off."""


@dataclass
class Upload:
    """One process's work on one run directory.

    Attributes:
        run_directory: `<root>/<name>`.
        config: The config of this run.
        file: What the server has.
        touched: Tokens of the runs this process created or compared with the server.
        created_now: Tokens that no earlier process can have used.
        tails: Readers of histories by token.
        lines: What they read and the server lacks.
    """

    run_directory: Path
    config: Config
    file: CursorFile
    touched: set[str] = field(default_factory=set)
    created_now: set[str] = field(default_factory=set)
    tails: dict[str, files.HistoryTail] = field(default_factory=dict)
    lines: dict[str, list[files.Line]] = field(default_factory=dict)

    def push(self, store: Store) -> None:
        """Upload everything that waits; after an error, compare what was in flight before going on."""
        try:
            self._push(store)
        except BaseException:
            self.touched.clear()
            self.created_now.clear()
            raise

    def _push(self, store: Store) -> None:
        cursor = self.file.cursor
        self._forget_what_is_gone(store)
        if cursor.experiment != store.experiment:
            cursor.experiment = store.experiment
            self.file.save()
        self._open_parent(store, cursor.parent)
        for execution in list(cursor.executions):
            if execution.key or execution.state != "RUNNING":
                self._push_execution(store, execution)
        self._close_parent(store, cursor.parent)

    def waiting(self) -> int:
        """How many items the server lacks: lines, files, images, and states of runs."""
        cursor = self.file.cursor
        count = sum(self._waiting_of(execution) for execution in cursor.executions)
        return count + (bool(cursor.executions) and cursor.parent.sent_state != cursor.parent.state)

    def _waiting_of(self, execution: Execution) -> int:
        sent = execution.sent
        if not execution.key and execution.state == "RUNNING":
            return 0
        count = int(sent.state != execution.state) + int(sent.superseded != execution.superseded)
        directory = files.stage_directory(self.run_directory, execution.stage, execution.key)
        if directory is None:
            return count
        if sent.state != "FINISHED":
            count += len(self._new_lines(execution, directory))
        if execution.state == "FINISHED":
            count += len(unsent_files(execution, directory))
        return count

    def _forget_what_is_gone(self, store: Store) -> None:
        """Start over where somebody deleted a run we knew from an earlier process."""
        cursor = self.file.cursor
        if cursor.parent.token in self.touched or not cursor.parent.run:
            return
        if not store.has(cursor.parent.run):
            cursor.parent = Parent(cursor.parent.state, cursor.parent.started_ms, cursor.parent.ended_ms)
            for execution in cursor.executions:
                execution.run, execution.sent = None, Sent()
            self.file.save()

    def _open_parent(self, store: Store, parent: Parent) -> None:
        if parent.run is None:
            tags = {**origin_tags(), "triptych.run": self.config.name, "triptych.order": "0"}
            parent.run = store.create(
                self.config.name,
                parent.token,
                parent.started_ms,
                tags,
                search=parent.token not in self.created_now,
            )
            parent.sent_state = "RUNNING"
            self.file.save()
        self.touched.add(parent.token)
        self._push_config(store, parent)
        if parent.state == "RUNNING" and parent.sent_state != "RUNNING":
            store.reopen(parent.run)
            parent.sent_state = "RUNNING"
            self.file.save()

    def _push_config(self, store: Store, parent: Parent) -> None:
        import hashlib

        path = self.run_directory / "config.yaml"
        if not path.is_file():
            return
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != parent.config_digest:
            assert parent.run is not None
            store.upload(parent.run, [files.Artifact(path, "")])
            parent.config_digest = digest
            self.file.save()

    def _close_parent(self, store: Store, parent: Parent) -> None:
        assert parent.run is not None
        note, digest = parent_note(self.run_directory, self.file.cursor)
        if digest != parent.note_digest:
            store.tag(parent.run, {"mlflow.note.content": note})
            parent.note_digest = digest
            self.file.save()
        if parent.sent_state != parent.state:
            store.finish(parent.run, parent.token, parent.state, parent.ended_ms)
            parent.sent_state = parent.state
            self.file.save()

    def _push_execution(self, store: Store, execution: Execution) -> None:
        sent, state = execution.sent, execution.state
        directory = files.stage_directory(self.run_directory, execution.stage, execution.key)
        if execution.run is None:
            self._create(store, execution)
        assert execution.run is not None
        if execution.superseded and not sent.superseded:
            store.tag(execution.run, {"triptych.superseded": "true"})
            sent.superseded = True
            self.file.save()
        if sent.state == state == "FINISHED" and (
            directory is None or not unsent_files(execution, directory)
        ):
            return
        self._open(store, execution)
        if directory is not None:
            record = files.peek(directory)
            if record and not sent.described:
                self._describe(store, execution, record)
            if record and not sent.dataset:
                self._log_dataset(store, execution, record)
            self._push_history(store, execution, directory)
            if state == "FINISHED" and record:
                push_result(store, self.file, execution, directory, record)
        if state != "RUNNING" and sent.state != state:
            self._tag_error(store, execution)
            store.finish(execution.run, execution.token, state, execution.ended_ms)
            sent.state = state
            self.file.save()

    def _create(self, store: Store, execution: Execution) -> None:
        parent = self.file.cursor.parent
        assert parent.run is not None
        tags = {
            **origin_tags(),
            "mlflow.parentRunId": parent.run,
            "triptych.run": self.config.name,
            "triptych.stage": execution.stage,
            "triptych.order": str(1 + STAGES.index(execution.stage)),
        }
        name = f"{self.config.name}:{execution.stage}"
        fresh = execution.token in self.created_now
        execution.run = store.create(name, execution.token, execution.started_ms, tags, search=not fresh)
        execution.sent.state = "RUNNING"
        if fresh:
            self.touched.add(execution.token)
        self.file.save()

    def _open(self, store: Store, execution: Execution) -> None:
        """Bring status and attempt up to date before anything is added."""
        sent = execution.sent
        assert execution.run is not None
        if execution.state == "RUNNING" and sent.state != "RUNNING":
            store.reopen(execution.run)
            sent.state = "RUNNING"
        if execution.key and sent.attempt != execution.attempt:
            store.tag(
                execution.run, {"triptych.key": execution.key, "triptych.attempt": str(execution.attempt)}
            )
            sent.attempt = execution.attempt
            self.file.save()

    def _describe(self, store: Store, execution: Execution, record: Record) -> None:
        assert execution.run is not None
        if execution.stage not in PICTURES_ONLY:
            store.log_parameters(execution.run, files.parameters(record))
        tags = {f"triptych.{name}": str(value) for name, value in record.execution.items()}
        if note := stage_note(execution.stage):
            tags["mlflow.note.content"] = note
        if tags:
            store.tag(execution.run, tags)
        execution.sent.described = True
        self.file.save()

    def _log_dataset(self, store: Store, execution: Execution, record: Record) -> None:
        """Say which dataset a stage reads, and of shard, once it is there, which it made."""
        if execution.stage == "shard" and record.state != "complete":
            return
        assert execution.run is not None
        if dataset := lineage(self.run_directory, record):
            store.log_dataset(execution.run, dataset, USES[execution.stage])
            execution.sent.dataset = True
            self.file.save()

    def _push_history(self, store: Store, execution: Execution, directory: Path) -> None:
        """Log the lines after the last one the server has; a step repeated by a resume has equal values."""
        sent = execution.sent
        assert execution.run is not None
        lines = self._new_lines(execution, directory)
        if not lines:
            return
        there: dict[str, int] = {}
        if execution.token not in self.touched:
            there = store.last_steps(execution.run, {name for line in lines for name in line.values})
        for start in range(0, len(lines), LINES_PER_STEP):
            part = lines[start : start + LINES_PER_STEP]
            again = [line for line in part if line.samples_seen <= sent.sending[0]]
            self._send_lines(store, execution, again, sent.sending[1], there)
            if new := part[len(again) :]:
                sent.sending = [new[-1].samples_seen, now_ms()]
                self.file.save()
                self._send_lines(store, execution, new, sent.sending[1], there)
            sent.samples_seen = part[-1].samples_seen
            self.file.save()
        self.touched.add(execution.token)

    def _send_lines(
        self, store: Store, execution: Execution, lines: list[files.Line], at_ms: int, there: dict[str, int]
    ) -> None:
        """Log lines, all with the same time, as far as the server is not known to have them."""
        assert execution.run is not None
        points = [
            (name, value, line.samples_seen)
            for line in lines
            for name, value in line.values.items()
            if line.samples_seen > there.get(name, -1)
        ]
        if points:
            store.log_metrics(execution.run, points, at_ms)

    def _new_lines(self, execution: Execution, directory: Path) -> list[files.Line]:
        tail = self.tails.setdefault(execution.token, files.HistoryTail(directory / files.HISTORY))
        lines = [*self.lines.get(execution.token, []), *tail.read()]
        last = execution.sent.samples_seen
        new: list[files.Line] = []
        for line in lines:
            if line.samples_seen > last:
                new.append(line)
                last = line.samples_seen
        self.lines[execution.token] = new
        return new

    def _tag_error(self, store: Store, execution: Execution) -> None:
        record = files.live_record(self.run_directory, self.config, execution.stage)
        if execution.state == "FAILED" and record and record.error:
            assert execution.run is not None
            store.tag(execution.run, {"triptych.error": record.error[:5000]})

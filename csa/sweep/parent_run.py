"""The MLflow run of a sweep, written by a process of its own: MLflow may be slow, locked or gone.

stdin: the sweep's name and where to write, later how it ended; its end alone says that the sweep was killed
stdout: the run's id, as soon as there is one
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from csa.tracking.store import DEFAULT_URI, connect, settle_environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

TAG = "csa.sweep.parent"
START = "csa.sweep.start"
NOT_OF_A_METRIC = re.compile(r"[^\w .:/-]")
MOST_METRICS = 800  # of one call
LONGEST_NOTE = 5000
PAUSE_SECONDS = 5.0
GIVE_UP_SECONDS = 30.0


def open_run(uri: str | None, experiment: str, name: str, title: str, start: str) -> tuple[MlflowClient, str]:
    """The sweep's run, called ``title``, found again by ``name``. start: names this start of the sweep."""
    client, experiment_id = connect(uri or DEFAULT_URI, experiment)
    found = client.search_runs([experiment_id], f"tags.`{TAG}` = '{name}'", max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        client.set_tag(run_id, START, start)
        client.update_run(run_id, "RUNNING")
        return client, run_id
    tags = {TAG: name, START: start, "mlflow.source.name": "csa", "mlflow.source.type": "LOCAL"}
    return client, str(client.create_run(experiment_id, tags=tags, run_name=title).info.run_id)


def close_run(client: MlflowClient, run_id: str, start: str, end: dict[str, Any] | None) -> None:
    """Unless the sweep has been started again. end: status, counts and means; None: the sweep was killed."""
    if client.get_run(run_id).data.tags.get(START) != start:
        return
    for state, count in (end or {"counts": {}})["counts"].items():
        client.set_tag(run_id, f"csa.runs.{state}", str(count))
    if end and end.get("means"):
        log_means(client, run_id, end["means"])
    client.set_terminated(run_id, end["status"] if end else "KILLED")


def log_means(client: MlflowClient, run_id: str, means: dict[str, dict[str, float]]) -> None:
    """Of each cell its accuracies as metrics (``crt/all``), and all of them as a table and in the run's description."""
    from mlflow.entities import Metric

    now = int(1000 * time.time())
    groups = list(dict.fromkeys(group for one in means.values() for group in one))
    rows = {name: {group: round(one[group], 2) for group in groups if group in one} for name, one in means.items()}
    metrics = [
        Metric(f"{NOT_OF_A_METRIC.sub('_', name)}/{group}", value, now, 0)
        for name, one in rows.items()
        for group, value in one.items()
    ]
    for start in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
    table = {"cell": list(rows), **{group: [one.get(group) for one in rows.values()] for group in groups}}
    client.log_table(run_id, table, "means.json")
    head = f"| cell | {' | '.join(groups)} |\n| --- |{' ---: |' * len(groups)}\n"
    lines = [f"| {name} | {' | '.join(str(one.get(group, '-')) for group in groups)} |" for name, one in rows.items()]
    told = "Test accuracy in %, last epoch, mean over seeds.\n\n" + head + "\n".join(lines)
    client.set_tag(run_id, "mlflow.note.content", told[:LONGEST_NOTE])


def _insist(work: Any, until: threading.Event) -> Any:
    """Try until it works, or for a while after the sweep has ended."""
    ended_at = None
    while True:
        try:
            return work()
        except Exception:
            ended_at = ended_at or (time.monotonic() if until.is_set() else None)
            if ended_at is not None and time.monotonic() - ended_at > GIVE_UP_SECONDS:
                raise
            until.wait(PAUSE_SECONDS)
            time.sleep(0.5)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the runs
    settle_environment()
    question = json.loads(sys.stdin.readline())
    ended, ends = threading.Event(), list[dict[str, Any]]()

    def listen() -> None:
        ends.extend(json.loads(line) for line in sys.stdin)
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    start = uuid.uuid4().hex
    client, run_id = _insist(lambda: open_run(**question, start=start), ended)
    with contextlib.suppress(OSError):  # the sweep may have ended meanwhile
        print(run_id, flush=True)
    ended.wait()
    _insist(lambda: close_run(client, run_id, start, ends[-1] if ends else None), ended)


if __name__ == "__main__":
    main()

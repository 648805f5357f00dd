"""Housekeeping of recorded runs.

python -m csa.records                                what is recorded below outputs/, and how it stands
python -m csa.records state=failed                   only the failed ones, with why
python -m csa.records format=json                    the same for programs
python -m csa.records mode=remove run=3f2a           delete one run; asks first
python -m csa.records mode=remove state=interrupted yes=true   delete all interrupted ones, without asking
python -m csa.records mode=export [to=folder]        finished runs as small files to keep with the code
python -m csa.records mode=sync                      send to MLflow what it missed; tracking=csv and so on: there

run      a fingerprint, or how it begins
state    any, done, failed, interrupted, running
to       where exports go (reports/records)
replace  true: an exported record is replaced where the run here differs from it
output_root=folder, tracking.uri=... and --config-dir are as in csa.run.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csa.cli import answer_help, reporting_faults, say
from csa.config.faults import Fault, RecordError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from csa.config.schema import Config
    from csa.tracking.run import Run

WORDS: dict[str, tuple[str, ...]] = {
    "mode": ("list", "remove", "export", "sync"),
    "state": ("any", "done", "failed", "interrupted", "running"),
    "format": ("table", "json"),
    "yes": ("false", "true"),
    "replace": ("false", "true"),
    "run": (),
    "to": (),
}
TAKES = ("output_root", "tracking")
USED = {
    "list": ("run", "state", "format"),
    "remove": ("run", "state", "yes"),
    "export": ("run", "to", "replace"),
    "sync": (),
}
EXPORTS = "reports/records"
LAST_WRITTEN = ("result.json", "failure.json", "metrics.jsonl", "identity.json")


def main(words: list[str]) -> int:
    """The exit status: 1 where something that was asked for could not be done to every run."""
    answer_help(words, __doc__)
    from csa.request import configure

    with reporting_faults():
        config, own = configure(words, extra=WORDS, takes=TAKES)
        _refuse_unused(words, own["mode"])
        output_root = Path(config.output_root).expanduser()
        if not output_root.is_dir():
            return _nothing(f"there is no folder {config.output_root}; nothing was run", own)
        actions = {"list": show, "remove": remove, "export": export}
        if own["mode"] == "sync":
            return sync(config, output_root)
        return actions[own["mode"]](output_root, own)
    return 0


def _refuse_unused(words: Sequence[str], mode: str) -> None:
    given = [(key, value) for key, _, value in (word.partition("=") for word in words) if key in WORDS]
    unused = [(key, value) for key, value in given if key not in ("mode", *USED[mode])]
    allowed = ", ".join(USED[mode]) or "nothing of its own"
    faults = [Fault(key, value, f"is not used by mode={mode}", allowed) for key, value in unused]
    if faults:
        raise UserError(*faults)


def _nothing(text: str, own: dict[str, str]) -> int:
    say(json.dumps({"runs": [], "states": {}, "bytes": 0}) if own["format"] == "json" else text)
    return 0


def _which(own: dict[str, str]) -> str:
    return "" if own["state"] == "any" else f"{own['state']} "


def _selected(output_root: Path, own: dict[str, str]) -> list[Run]:
    """Those that ``run=`` and ``state=`` name."""
    from csa.tracking.finding import find_run, runs

    found = [find_run(output_root, own["run"])] if own["run"] else runs(output_root)
    return [run for run in found if own["state"] in ("any", run.state)]


# --- list -----------------------------------------------------------------------------------


def show(output_root: Path, own: dict[str, str]) -> int:
    entries = [described(run) for run in _selected(output_root, own)]
    if not entries:
        return _nothing(f"no {_which(own)}run is recorded below {output_root}", own)
    if own["format"] == "json":
        states = dict(sorted(Counter(entry["state"] for entry in entries).items()))
        total = sum(entry["bytes"] for entry in entries)
        print(json.dumps({"runs": entries, "states": states, "bytes": total}))
    else:
        print_table(entries)
    return 0


def described(run: Run) -> dict[str, Any]:
    """What the list says of a run.

    seed: None where identity.json is damaged; variant: the word that sets it apart from the usual run, such as
    ``smoke``; mostly empty. accuracy: percent, of the primary head at the last epoch; None before the end. bytes: of
    all its files. age_seconds: since it last got further. note: why it failed, who is training it, or which of its
    files is damaged.
    """
    from csa.tracking.files import bytes_below
    from csa.tracking.finding import fingerprint_of

    state, accuracy, identity = run.state, None, dict[str, Any]()
    try:
        identity = run.identity
        accuracy = run.result["all"] if state == "done" else None
        note = run.holder if state == "running" else run.failure_line if state == "failed" else ""
    except (RecordError, FileNotFoundError) as error:
        note = str(error)
    written = [path.stat().st_mtime for name in LAST_WRITTEN if (path := run.folder / name).exists()]
    return {
        "fingerprint": fingerprint_of(run.folder) or "",
        "dataset": run.folder.parents[1].name,
        "method": run.folder.parents[0].name,
        "seed": identity.get("seed"),
        "variant": identity.get("variant", ""),
        "folder": str(run.folder),
        "state": state,
        "epochs": run.epochs_so_far,
        "accuracy": accuracy,
        "bytes": bytes_below(run.folder),
        "age_seconds": max(0.0, round(time.time() - max(written), 1)),
        "note": note,
    }


def print_table(entries: Sequence[dict[str, Any]]) -> None:
    """A row a run, narrow enough for 80 columns; totals; then what is to be said of single runs."""
    from rich.filesize import decimal

    from csa.config.identity import DIGITS
    from csa.console import FoldedTable, PlainConsole, counting, duration, two_decimals

    console = PlainConsole()
    table = FoldedTable(box=None, pad_edge=False, collapse_padding=True)
    table.add_column("fingerprint", width=DIGITS)  # never folded: it is copied
    for heading in ("dataset", "method", "state"):
        table.add_column(heading)
    for heading in ("seed", "epochs", "all %", "size", "age"):
        table.add_column(heading, justify="right")
    for entry in entries:
        names = (entry[name] for name in ("fingerprint", "dataset", "method", "state"))
        figures = (
            "-" if entry["seed"] is None else str(entry["seed"]),
            str(entry["epochs"]),
            two_decimals(entry["accuracy"]),
            decimal(entry["bytes"]),
            duration(entry["age_seconds"]),
        )
        table.add_row(*names, *figures)
    console.print(table)
    states = sorted(Counter(entry["state"] for entry in entries).items())
    total = decimal(sum(entry["bytes"] for entry in entries))
    counts = ", ".join(f"{count} {state}" for state, count in states)
    console.print(f"{counting(len(entries), 'run')}: {counts}; {total}")
    for entry in entries:
        variant = f"variant {entry['variant']}" if entry["variant"] else ""
        if said := "; ".join(filter(None, (variant, entry["note"]))):
            console.print(f"{entry['fingerprint']} {entry['state']}: {said}")


# --- remove ---------------------------------------------------------------------------------


def remove(output_root: Path, own: dict[str, str]) -> int:
    """Delete the chosen runs after showing them; what is running stays, whoever asks."""
    from csa.console import counting

    if own["state"] == "running":
        raise UserError(Fault("state", "running", "what is running is never removed", "done, failed, interrupted"))
    if not own["run"] and own["state"] == "any":
        allowed = "run=<fingerprint>, or state=done, failed or interrupted"
        raise UserError(Fault("mode", "remove", "needs to be told which runs", allowed))
    chosen = _selected(output_root, own)
    entries = [described(run) for run in chosen]
    running = [entry for entry in entries if entry["state"] == "running"]
    if running:
        raise UserError(*(Fault("run", entry["fingerprint"], f"is running ({entry['note']})") for entry in running))
    if not chosen:
        return _nothing(f"no such {_which(own)}run is recorded below {output_root}", own)
    print_table(entries)
    if not _agreed(len(chosen), own):
        print("nothing was removed")
        return 0
    left = [text for run in chosen if (text := _removed(run, output_root))]
    for text in left:
        say(f"left: {text}", aside=True)
    print(f"removed {counting(len(chosen) - len(left), 'run')}")
    return 1 if left else 0


def _agreed(number: int, own: dict[str, str]) -> bool:
    from csa.console import counting

    runs = counting(number, "run")
    if own["yes"] == "true":
        return True
    if not sys.stdin.isatty():
        problem = f"{runs} would be removed, and there is no terminal to ask at"
        raise UserError(Fault("yes", "false", problem, "yes=true removes without asking"))
    try:
        answer = input(f"remove {runs} for good? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


def _removed(run: Run, output_root: Path) -> str:
    """Why a run could not be removed; nothing if it was."""
    from csa.tracking.finding import NotARunError, remove
    from csa.tracking.lease import HeldError

    try:
        remove(run, output_root)
    except (HeldError, NotARunError, OSError) as error:
        return str(error)
    return ""


# --- export and sync ------------------------------------------------------------------------


def export(output_root: Path, own: dict[str, str]) -> int:
    """Write finished runs below ``to``; what lies there already stays unless ``replace``."""
    from csa.tracking import exported

    to = Path(own["to"] or EXPORTS).expanduser()
    outcomes: Counter[str] = Counter()
    problems = []
    for run in _selected(output_root, own):
        if run.state != "done":
            outcomes["not done"] += 1
            continue
        try:
            outcomes[exported.export(run, to, replace=own["replace"] == "true").outcome] += 1
        except (FileNotFoundError, RecordError) as error:
            problems.append(str(error))
        except OSError as error:
            raise UserError(Fault("to", str(to), f"cannot be written ({error.strerror})")) from error
    for problem in problems:
        say(f"left out: {problem}", aside=True)
    wording = {
        "written": "written",
        "unchanged": "unchanged",
        "kept": "kept although the run here differs (replace=true takes it)",
        "not done": "left out because they are not done",
    }
    counts = ", ".join(f"{outcomes[outcome]} {text}" for outcome, text in wording.items() if outcomes[outcome])
    say(f"{to}: {counts or 'nothing to export'}")
    return 1 if problems else 0


def sync(config: Config, output_root: Path) -> int:
    """Send to the tracker what it missed."""
    from csa.tracking.tracker import tracker_of
    from csa.tracking.watched import sync as send

    if (tracker := tracker_of(config.tracking)) is None:
        raise UserError(Fault("tracking", config.tracking.name, "sends nothing anywhere", "mlflow, or another tracker"))
    if faults := tracker.faults():
        raise UserError(*faults)
    failed = False
    for one in send(output_root, tracker):
        say(str(one))
        failed |= one.failed
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""csa: long-tailed image recognition, from one line to the paper's tables.

csa run dataset=cifar100_lt method=csa     train a run, or a sweep with -m; csa run --help
csa data dataset=cifar100_lt               class counts, shot groups and hash of a data set
csa report                                 tables and figures of what is recorded
csa records                                list, remove, export recorded runs, or send them to MLflow
csa evaluate run=3f2a images=folder        use a recorded model
csa export run=3f2a to=model.pt2           as one file, torch.export's or ONNX, with a model card
csa completion bash                        completion by tab, for bash, zsh or fish: eval "$(csa completion bash)"

python -m csa ... is the same, and python -m csa.run the same as csa run.
"""

from __future__ import annotations

import runpy
import sys

from csa.cli import answer_help, reporting_faults
from csa.config.faults import Fault, UserError, nearest

ENTRIES = {name: f"csa.{name}" for name in ("run", "data", "report", "records", "evaluate", "export", "completion")}
ENTRIES["data"] = "csa.data.__main__"


def main() -> None:
    command, *words = sys.argv[1:] or ["--help"]
    answer_help([command], __doc__)
    with reporting_faults():
        if command not in ENTRIES:
            allowed = ", ".join(ENTRIES)
            raise UserError(Fault("csa", command, "there is no such command", allowed, nearest(command, ENTRIES)))
    sys.argv[:] = [f"csa {command}", *words]
    runpy.run_module(ENTRIES[command], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""What a run prints when it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from csa.console import PlainConsole
from csa.summary import print_result

SCORES = {"many": 80.0, "medium": 50.0, "few": None, "all": 65.0, "balanced": 65.0, "ece": 4.0}
RESULT = {
    "run": {"method": "crt", "dataset": "mnist_lt", "seed": 0},
    "head": "classifier",
    "heads": {"classifier": {"last": SCORES, "best_on_test": {"all": 66.0, "epoch": 8}}},
    "collapsed": False,
    "epochs": 12,
    "reused_epochs": 0,
    "seconds": 9.46,
    "images_per_second": 6240.7,
}


@pytest.mark.parametrize(
    ("reused", "said"),
    [
        (0, "epochs: 12 in 9.5 s (6,241 training images/s)"),
        (8, "epochs: 4 in 9.5 s (6,241 training images/s); 8 taken over from a finished run"),
    ],
)
def test_epochs_of_its_own_and_taken_over(reused, said):
    console = PlainConsole(record=True, width=60)
    print_result(console, RESULT | {"reused_epochs": reused}, Path("outputs"))
    assert console.export_text().splitlines()[-2:] == [said, "record: outputs"]

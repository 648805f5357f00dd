"""What a run prints when it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from csa.config.identity import fingerprint, identity
from csa.console import PlainConsole
from csa.summary import as_plain, next_commands, print_result

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
def test_epochs_of_its_own_and_taken_over(reused, said, configuration):
    console = PlainConsole(record=True, width=60)
    full = configuration("method=crt", "protocol.epochs=20")
    print_result(console, full, RESULT | {"reused_epochs": reused}, Path("outputs"))
    assert console.export_text().splitlines()[-2:] == [said, "record: outputs"]


def test_cross_entropy_is_shown_below_and_a_run_that_was_cut_short_says_so(configuration):
    console = PlainConsole(record=True, width=80)
    plain = RESULT | {
        "heads": {"classifier": {"last": SCORES | {"all": 51.25}, "best_on_test": {"all": 52, "epoch": 1}}}
    }
    print_result(console, configuration("method=crt"), RESULT, Path("outputs"), plain)
    lines = console.export_text().splitlines()
    assert lines[3].startswith("classifier *")
    assert lines[4].split() == ["ce", "80.00", "50.00", "-", "51.25", "65.00", "52.00", "(2)", "4.00"]
    assert lines[5].startswith("* stands for the run; ce: the same run of it; best: the epoch")
    assert lines[-2] == "cut short: 2 of the recipe's 20 epochs; not comparable with full runs"


@pytest.mark.parametrize("words", [(), ("method=crt",), ("dataset.imbalance_ratio=2", "method=cbrs", "seed=3")])
def test_the_same_run_of_cross_entropy_is_the_one_that_its_words_make(words, configuration):
    composed = configuration(*words, "method=ce", "sampler=uniform")
    plain = as_plain(configuration(*words))
    assert fingerprint(identity(plain, "ab")) == fingerprint(identity(composed, "ab"))
    assert as_plain(composed) is None


@pytest.mark.parametrize(
    ("words", "sweep"),
    [
        ([], "run -m method=ce,csa seed=0,1,2,3,4"),
        (["method=ce", "seed=4"], "run -m method=ce,csa seed=4,5,6,7,8"),
        (["method=crt", "output_root=a b"], "run -m 'output_root=a b' method=ce,crt seed=0,1,2,3,4"),
        (["method.bank=false", "delta=0.5"], "run -m method.bank=false delta=0.5 method=csa seed=0,1,2,3,4"),
    ],
)
def test_what_is_proposed_next(words, sweep, configuration, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: "/bin/csa")
    proposed = next_commands(configuration(*words), words, ["--config-dir", "mine"]).splitlines()
    rest = " 'output_root=a b'" if "output_root=a b" in words else ""
    assert [line.partition("   #")[0].strip() for line in proposed[1:]] == [
        f"csa {sweep.replace('run -m', 'run -m --config-dir mine')}",
        f"csa report --config-dir mine{rest}",
        f"csa evaluate run=latest images=folder --config-dir mine{rest}",
    ]

"""A search with Optuna: killed, continued to its number of trials, failed trials among them."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from contextlib import closing
from types import SimpleNamespace

import optuna
import pytest
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from optuna.trial import TrialState
from started import LENET, ended, start, wait_for
from tiny_words import TINY

from csa.config.faults import UserError
from csa.request import preflight
from csa.sweep.search import Search, SearchSweeper, prepare

TRIALS = 2
OF_OPTUNA = (
    "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.study_name=few",
    "hydra.sweeper.storage=sqlite:///few.db", f"hydra.sweeper.n_trials={TRIALS}",
    "hydra.sweeper.direction=maximize", "hydra.sweeper.max_failure_rate=1.0",
)  # fmt: skip
FEW = ("-m", *LENET, "sweep.slots=1", "protocol.epochs=1", "tracking=none", "dataset.holdout=2",
       "protocol.lr=choice(0.01,1e12)", *OF_OPTUNA)  # fmt: skip


def trials(root):
    """Of the one study in the file, once there is one; Optuna is asked then only, since it makes what is not there."""
    path = root / "few.db"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            (name,) = database.execute("select study_name from studies").fetchone()
    except (sqlite3.OperationalError, TypeError):
        return []
    return optuna.load_study(study_name=name, storage=f"sqlite:///{path}").trials


def test_a_killed_search_is_continued_to_its_number_of_trials(tmp_path, monkeypatch):
    search = start(tmp_path, *FEW)
    wait_for(lambda: sum(trial.state.is_finished() for trial in trials(tmp_path)) >= 1, search)
    wait_for(lambda: trials(tmp_path)[-1].state is TrialState.RUNNING, search)
    search.kill()
    ended(search)
    at_kill = trials(tmp_path)
    assert at_kill[-1].state is TrialState.RUNNING
    status, told = ended(start(tmp_path, *FEW))
    assert status == 0, told
    found = trials(tmp_path)
    assert [trial.number for trial in found] == list(range(TRIALS))
    for before, after in zip(at_kill, found, strict=False):
        assert before.params == after.params or not before.params
    points = Counter((trial.params["protocol.lr"], trial.state) for trial in found)
    assert points == {(0.01, TrialState.COMPLETE): 1, (1e12, TrialState.FAIL): 1}
    assert "1 trials done, 1 failed, 0 to do" in told

    # The objective is the accuracy on the validation images, the test set's stands beside it.
    (path,) = tmp_path.glob("outputs/*/*/*/result.json")
    result = json.loads(path.read_text())
    assert study_value(found) == result["heads"][result["head"]]["holdout"]["all"]

    # Started once more nothing is run; other runs are another study.
    monkeypatch.chdir(tmp_path)
    again = prepare(preflight(list(FEW[1:]), multirun=True))
    again.lock.close()
    assert (again.left, again.is_over) == (0, True)
    other = ("protocol.batch_size=8", "plan=true", "sweep.calibrate=false")
    assert prepare(preflight([*FEW[1:], *other], multirun=True)).left == TRIALS


def study_value(found) -> float:
    """Of the one trial that is complete."""
    (value,) = (trial.value for trial in found if trial.state is TrialState.COMPLETE)
    return value


def test_a_search_killed_in_its_first_trial_goes_on_with_other_points(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*(word for word in FEW[1:] if "sampler=grid" not in word), "hydra.sweeper.sampler.seed=5"]

    def prepared() -> list[str]:
        search = prepare(preflight(words, multirun=True))
        search.lock.close()
        study = optuna.create_study(study_name=search.name, storage=search.storage, load_if_exists=True)
        assert [trial.state for trial in study.trials] == [TrialState.WAITING] * len(study.trials)
        study.ask()  # as the sweep does before it is killed
        return search.words

    assert "hydra.sweeper.sampler.seed=5" in prepared()
    assert "hydra.sweeper.sampler.seed=6" in prepared()
    (one,) = trials(tmp_path)  # the second start took up what the first had left, and drew nothing
    assert one.state is TrialState.RUNNING
    assert "hydra.sweeper.sampler.seed=6" in prepared()


def test_a_search_without_a_success_says_so(tmp_path, monkeypatch, capsys):
    storage = f"sqlite:///{tmp_path / 'none.db'}"
    study = optuna.create_study(study_name="none", storage=storage)
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
    monkeypatch.setattr(OptunaSweeper, "sweep", lambda *_: study.best_trial)  # as it ends
    sweeper = object.__new__(SearchSweeper)
    sweeper.sweeper = SimpleNamespace(storage=storage, study_name="none")
    with pytest.raises(SystemExit, match="1"):
        sweeper.sweep([])
    Search(storage, "none", budget=1, left=0, images=None, run=(), lock=None).show()
    assert "0 trials done, 1 failed, 0 to do" in capsys.readouterr().out


def test_the_test_set_must_not_choose(tmp_path):
    words = [word for word in FEW if not word.startswith("dataset.holdout")]
    status, told = ended(start(tmp_path, *words))
    assert status == 2, told
    assert "dataset.holdout_share=0: leaves a search without validation images" in told
    assert not (tmp_path / "few.db").exists()


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("hydra.sweeper.storage=foo", "cannot be opened (Could not parse SQLAlchemy URL from given URL string)"),
        ("hydra.sweeper.storage=sqlite:////dev/null/x.db", "cannot be opened (File exists)"),
        ("hydra.sweeper.storage=null", "is needed to continue a search; allowed: as in -cn search"),
        ("hydra.sweeper.direction=up", "is none; allowed: maximize, minimize"),
        ("hydra.sweeper.max_failure_rate=2.0", "is out of range; allowed: a number from 0 to 1"),
    ],
)
def test_settings_of_a_search_that_it_cannot_have(tmp_path, monkeypatch, word, fault):
    monkeypatch.chdir(tmp_path)
    first = preflight(["dataset=digits_lt", "dataset.max_per_class=100", word], "search_csa")
    with pytest.raises(UserError, match=re.escape(f"{word}: {fault}")):
        prepare(first)


def test_any_run_is_searched_and_the_best_one_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    words = ["method=ce", "dataset.holdout_share=0.1", "sweep.slots=1", "seed=3", "protocol.lr=interval(0.01,0.1)"]
    search = prepare(preflight(words, "search"))
    (ranges,) = (word for word in search.words if not word.startswith("hydra"))
    assert ranges == "protocol.weight_decay=tag(log, interval(0.00001, 0.01))"
    study = optuna.create_study(study_name=search.name, storage=search.storage, direction="maximize")
    for lr, accuracy in ((0.02, 61.5), (0.04, 72.25)):
        trial = optuna.trial.create_trial(
            params={"protocol.lr": lr},
            distributions={"protocol.lr": optuna.distributions.FloatDistribution(0.01, 0.1)},
            value=accuracy,
        )
        study.add_trial(trial)
    search.show()
    told = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in told.splitlines() if line[0] == "│"]
    assert search.images == 34  # a tenth of each class, rounded up
    assert rows == [["1", "72.25 ± 14.26", "0.04"], ["0", "61.50 ± 15.53", "0.02"]]
    assert "validation images; that of 1 of the 1 others overlaps with that of the best trial" in told
    best = "python -m csa.run method=ce dataset.holdout_share=0.1 seed=3 protocol.lr=0.04"
    assert f"its run again: {best}\n" in told
    preflight(best.split()[3:])
    own = preflight([], "search_csa", to_run=False)
    assert next(iter(own.composed.searched)) == "delta"


def test_seeds_of_any_length_and_files_below_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = (
        "dataset=digits_lt",
        "dataset.max_per_class=100",
        "output_root='~/runs'",
        "hydra.sweeper.sampler.seed=4294967297",
    )
    search = prepare(preflight(words, "search_csa"))
    assert search.storage == f"sqlite:///{tmp_path}/home/runs/search_csa.db"
    assert {"hydra.sweeper.sampler.seed=1", f"hydra.sweeper.storage='{search.storage}'"} < set(search.words)


def test_search_csa_is_planned(tmp_path):
    words = ("-cn", "search_csa", "smoke=true", "plan=true", "sweep.calibrate=false", "tracking=none")
    status, told = ended(start(tmp_path, *words))
    assert status == 0, told
    assert "0 trials done, 0 failed, 3 to do" in told
    assert not list(tmp_path.glob("outputs/*/*"))


def test_search_csa_runs(tmp_path):
    threads = [word for word in TINY if word.startswith("runtime")]
    words = ("-cn", "search_csa", "smoke=true", "tracking=none", "hydra/launcher=basic", *threads)
    status, told = ended(start(tmp_path, *words))
    assert status == 0, told
    results = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/*/result.json")]
    assert 0 < len(results) <= 3
    assert {result["run"]["method"] for result in results} == {"csa"}
    assert "3 trials done, 0 failed, 0 to do" in told

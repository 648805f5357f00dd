"""What a sweep consists of: runs, duplicates, states, what is to be done and how long that takes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from plans import begin, fail, finish, plan_of
from tiny_words import TINY
from whole_records import LINE

from csa.config.faults import UserError
from csa.config.schema import SweepConfig
from csa.console import PlainConsole
from csa.sweep import processes
from csa.sweep.estimate import Cost, Estimate, StageCost, estimate
from csa.sweep.plan import Settings
from csa.sweep.processes import WALL_NAME, Slot, is_held_here, slots_of
from csa.sweep.summary import means, print_plan
from csa.sweep.sweeper import CellsSweeper
from csa.tracking.files import write_json
from csa.tracking.lease import LEASE_NAME, Lease

SWEEP = SweepConfig(name=None, slots=1, on_error="continue", retry_failed=False, calibrate=False)
SETTINGS = Settings("config", None, SWEEP, plan=True)
RETRY = replace(SETTINGS, sweep=replace(SWEEP, retry_failed=True))


@pytest.fixture
def states(tmp_path):
    """One run in each state, by its seed: 0 planned, 1 running, 2 interrupted, 3 failed, 4 done."""
    plan = plan_of(tmp_path, "method=ce", "seed=0,1,2,3,4")
    begin(plan.runs[1])
    begin(plan.runs[2], epochs=1)
    fail(plan.runs[3])
    finish(plan.runs[4])
    with Lease(plan.runs[1].folder):
        yield plan


def shown(plan, settings=SETTINGS) -> str:
    console = PlainConsole(file=io.StringIO(), width=160)
    print_plan(console, plan, settings)
    return console.file.getvalue()


def test_states_are_read_from_the_folders(states):
    assert [run.state for run in states.runs] == ["planned", "running", "interrupted", "failed", "done"]
    assert states.counts() == dict.fromkeys(("done", "running", "interrupted", "failed", "planned"), 1)
    told = shown(states)
    assert "5 cells, 5 runs: 1 done, 1 running, 1 interrupted, 1 failed, 1 planned" in told
    assert "1 planned, 1 running, 1 interrupted, 1 failed, 1 done" in told


def test_what_is_to_be_done(states):
    seeds = [run.config.seed for run in SETTINGS.to_do(states)]
    assert seeds == [0, 1, 2]
    assert [run.config.seed for run in RETRY.to_do(states)] == [0, 1, 2, 3]


def test_rerun_does_what_is_done_again(tmp_path):
    plan = plan_of(tmp_path, "method=ce", "seed=0,1", "rerun=true")
    finish(plan.runs[0])
    assert len(SETTINGS.to_do(plan)) == 2


def test_what_starts_from_another_run_comes_after_it(tmp_path):
    plan = plan_of(tmp_path, "method=crt,ce", "seed=0,1")
    assert [run.config.method.name for run in SETTINGS.to_do(plan)] == ["ce", "ce", "crt", "crt"]


def test_a_lease_of_another_machine_is_for_the_run_to_judge(states):
    """It may be left from a machine that is gone; the run itself watches whether it still beats."""
    folder = states.runs[2].folder
    write_json(folder / LEASE_NAME, {"host": "a-machine-that-is-gone", "pid": 1, "beat": 7})
    assert states.runs[2].state == "running"
    assert not is_held_here(folder)
    assert is_held_here(states.runs[1].folder)


def test_equal_cells_are_one_run(tmp_path):
    plan = plan_of(tmp_path, "method=ce,cbrs", "delta=0.1,0.2", "seed=0")  # neither has a delta
    assert (plan.cells, len(plan.runs), len(plan.merged)) == (4, 2, 2)
    told = shown(plan)
    assert "4 cells, 2 runs (2 duplicates merged)" in told
    assert "one run: " in told
    assert "delta=0.1" in told


def test_equal_numbers_are_one_run(tmp_path):
    plan = plan_of(tmp_path, "delta=0.3,0.30000000000000004", "seed=0")
    assert (plan.cells, len(plan.runs)) == (2, 1)


def test_an_option_of_the_future_is_told_and_left_out(tmp_path):
    plan = plan_of(tmp_path, "method=ce,of_the_future", "seed=0,1")
    assert len(plan.runs) == 2
    assert {name for _, name in plan.missing} == {"method=of_the_future"}
    assert "2 not available (method=of_the_future)" in shown(plan)


def test_mistakes_of_all_cells_are_told_at_once(tmp_path):
    with pytest.raises(UserError) as told:
        plan_of(tmp_path, "method=ce,csa", "delta=0.5,1.5", "protocol.lr=0.1,-1", "dataset.foo=3")
    assert {fault.key for fault in told.value.faults} >= {"dataset.foo"}
    with pytest.raises(UserError) as told:
        plan_of(tmp_path, "method=ce,csa", "delta=0.5,1.5", "protocol.lr=0.1,-1")
    assert {fault.key for fault in told.value.faults} == {"delta", "protocol.lr"}


def test_labels_say_what_varies(tmp_path):
    plan = plan_of(tmp_path, "method=ce,csa", "seed=3")
    assert [plan.label(run) for run in plan.runs] == ["method=ce", "method=csa"]


def test_a_hundred_cells_without_torch(tmp_path):
    words = ["-m", *TINY, "seed=range(0,10)", "delta=0,0.1,...,0.9", "plan=true", "sweep.calibrate=false"]
    code = (
        f"import sys; sys.argv = ['csa', *{words!r}]\n"
        "from csa.entry import hydra_main\n"
        "hydra_main(lambda config: None)\n"
        "print('torch' in sys.modules, 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "100 cells, 100 runs: 0 done, 0 running, 0 interrupted, 0 failed, 100 planned" in done.stdout
    assert done.stdout.splitlines()[-1] == "False False"
    assert not list(tmp_path.glob("outputs/*/*"))


# --- time -----------------------------------------------------------------------------------


def test_a_run_costs_its_epochs_and_what_surrounds_them():
    cost = Cost((StageCost(100, 2.0, 0.5), StageCost(50, 1.0, 0.5)), total=100, beyond=6.0)
    assert cost.seconds([10, 4], total=100) == pytest.approx(6 + 10 * 2.5 + 4 * 1.5)
    assert cost.seconds([10, 4], total=200) == pytest.approx(6 + 10 * 4.5 + 4 * 2.5)  # evaluation is as long
    assert cost.seconds([0, 4], total=100) == pytest.approx(6 + 4 * 1.5)


def test_slots_work_side_by_side():
    told = Estimate(dict(zip("abcd", [10.0, 4.0, 3.0, 2.0], strict=True)), [])
    assert (told.wall(1), told.wall(2), told.wall(4)) == (19.0, 10.0, 10.0)


def test_times_come_from_finished_runs_of_the_same_kind(tmp_path):
    plan = plan_of(tmp_path, "method=ce", "seed=0,1,2", "protocol.epochs=4")
    finish(plan.runs[0], epochs=4)
    write_json(plan.runs[0].folder / WALL_NAME, {"beyond_training_seconds": 5.0})
    begin(plan.runs[1], epochs=3)
    told = estimate(SETTINGS.to_do(plan), threads=1, measure=False)
    assert told.unknown == []
    assert told.seconds[plan.runs[1].fingerprint] == pytest.approx(5 + 1 * 2.5, rel=0.05)
    assert told.seconds[plan.runs[2].fingerprint] == pytest.approx(5 + 4 * 2.5, rel=0.05)
    other = plan_of(tmp_path, "method=csa", "seed=0")
    assert estimate(other.runs, threads=1, measure=False).unknown == ["digits_lt csa resnet32 batch 16 1 thread"]


def test_a_first_stage_that_another_run_trains_costs_nothing(tmp_path):
    plan = plan_of(tmp_path, "method=crt,ce", "seed=0,1", "protocol.epochs=4")
    finish(plan.runs[2], epochs=4)  # of the other seed it is about to be trained
    crt = plan_of(tmp_path, "method=crt", "seed=5", "protocol.epochs=4")
    lines = [{**LINE, "stage": stage, "evaluation_seconds": 0.0} for stage in ("train", "classifier")]
    finish(crt.runs[0])
    crt.runs[0].record.write_metrics(lines)
    told = estimate(SETTINGS.to_do(plan), threads=1, measure=False)
    second = plan.runs[0].config.method.epochs
    assert {round(told.seconds[run.fingerprint], 1) for run in plan.runs[:2]} == {6 + second * 2.0}
    alone = plan_of(tmp_path, "method=crt", "seed=0,1", "protocol.epochs=4").runs
    times = estimate(alone, threads=1, measure=False).seconds
    assert [round(times[run.fingerprint], 1) for run in alone] == [6 + second * 2.0, 6 + second * 2.0 + 4 * 2.0]


def test_kinds_are_measured_where_nothing_is_known(tmp_path):
    plan = plan_of(tmp_path, "method=ce", "seed=0,1", "backbone=lenet")
    told = estimate(plan.runs, threads=1, measure=True)
    assert told.unknown == []
    assert len(set(told.seconds.values())) == 1
    remembered = json.loads((tmp_path / "calibration.json").read_text())
    (cost,) = remembered.values()
    assert cost["total"] == sum(stage["images"] for stage in cost["stages"])
    assert estimate(plan.runs, threads=1, measure=True).seconds == told.seconds  # not measured again


def test_measuring_that_is_stopped_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    runs = plan_of(tmp_path, "method=ce,cbrs,focal").runs
    asked = []

    def calibrated(configs, _threads):
        asked.append([config.method.name for config in configs.values()])
        for number, name in enumerate(configs):
            if number == 2:
                raise KeyboardInterrupt
            yield name, {"stages": [[64, 2.0, 1.0]], "total": 64, "beyond": 0.0}

    monkeypatch.setattr("csa.sweep.estimate.calibrate", calibrated)
    with pytest.raises(KeyboardInterrupt):
        estimate(runs, threads=1, measure=True)
    seconds = estimate(runs, threads=1, measure=True).seconds
    assert sorted(asked[0]) == ["cbrs", "ce", "focal"]
    assert asked[1] == asked[0][2:]
    assert len(seconds) == 3
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" of run;")[0] for line in told] == [
        "measuring a few steps of 3 kinds",
        "measuring a few steps of 1 kind",
    ]


# --- slots ----------------------------------------------------------------------------------


def test_slots_share_cores_gpus_and_memory(tmp_path, monkeypatch):
    config = plan_of(tmp_path, "seed=0").runs[0].config
    on_gpus = replace(config, runtime=replace(config.runtime, device="auto", threads=None, jobs_per_gpu=2))
    here = replace(on_gpus, runtime=replace(on_gpus.runtime, device="cpu"))
    many, one_slot_a_core = [here] * 30, replace(SWEEP, slots=None)
    monkeypatch.setattr(processes, "cores", lambda: 8)
    monkeypatch.setattr(processes, "free_memory", lambda: 1e12)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert slots_of(one_slot_a_core, [on_gpus]) == [
        Slot(0, 2, "3"), Slot(1, 2, "5"), Slot(2, 2, "3"), Slot(3, 2, "5"),
    ]  # fmt: skip
    assert slots_of(one_slot_a_core, many) == [Slot(n, 1, None) for n in range(8)]
    assert slots_of(one_slot_a_core, many[:3]) == [Slot(n, 2, None) for n in range(3)]  # no more than there are runs
    five_threads = replace(here, runtime=replace(here.runtime, threads=5))
    assert slots_of(one_slot_a_core, [five_threads] * 30) == [Slot(0, 5, None)]
    assert slots_of(replace(SWEEP, slots=3), many) == [Slot(n, 2, None) for n in range(3)]
    assert [slot.threads for slot in slots_of(replace(SWEEP, slots=20), many)] == [1] * 20
    monkeypatch.setattr(processes, "free_memory", lambda: 2.5e9)
    assert 0.75e9 < processes.memory_of_a_run(many) < 0.85e9
    assert slots_of(one_slot_a_core, many) == [Slot(n, 2, None) for n in range(3)]
    four_passes = replace(
        here, method=plan_of(tmp_path, "method=csa", "method.loss=bcl", "seed=0").runs[0].config.method
    )
    fixed = processes.PROCESS_BYTES
    assert processes.memory_of_a_run([four_passes]) - fixed > 1.9 * (processes.memory_of_a_run([here]) - fixed)
    large = replace(here, protocol=replace(here.protocol, batch_size=8192))
    assert slots_of(one_slot_a_core, [*many, large]) == [Slot(0, 8, None)]  # the largest decides, and one always runs
    assert processes.in_words([Slot(0, 8, None)], [large]) == (
        "one at a time, 8 threads, about 13.3 GB of memory each; 2.5 GB are free"
    )


def test_a_first_stage_has_one_name_for_all_that_can_start_from_it(tmp_path):
    methods = "method=ce,crt,lws,mixup,crt_mixup,csa,focal"
    runs = plan_of(tmp_path, methods).runs + plan_of(tmp_path, "method=ce", "sampler=square_root").runs
    ce, crt, lws, mixup, crt_mixup, csa, focal, balanced = (run.first_stage for run in runs)
    assert ce == crt == lws
    assert mixup == crt_mixup
    assert csa is balanced is None
    assert len({ce, mixup, focal}) == 3
    other = plan_of(tmp_path, "method=mixup,crt_mixup", "method.mixup_alpha=0.3").runs
    assert other[0].first_stage == other[1].first_stage != mixup


def test_the_sweeper_is_the_default(tmp_path):
    from csa.config.composition import Tree

    tree = Tree("config")
    target = tree.compose([]).sweeper["_target_"]
    assert target == f"{CellsSweeper.__module__}.{CellsSweeper.__name__}"


def test_mlflow_is_told_what_a_sweep_is_and_its_means_over_seeds(tmp_path):
    plan = plan_of(tmp_path / "outputs", "method=ce,crt", "seed=0,1")
    assert plan.title == "digits_lt: method x seed"
    assert means(plan) == {}
    for run, accuracy in zip(plan.runs[:3], (50.0, 60.0, 30.0), strict=True):
        finish(run, accuracy=accuracy)
    done = plan_of(tmp_path / "outputs", "method=ce,crt", "seed=0,1")
    assert means(done) == {
        "ce": {"all": 55.0, "many": 55.0, "medium": 55.0, "few": 55.0, "seeds": 2.0},
        "crt": {"all": 30.0, "many": 30.0, "medium": 30.0, "few": 30.0, "seeds": 1.0},
    }

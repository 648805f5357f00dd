"""The MLflow run of a sweep: found again by its name, called after what it is, with the means of its cells."""

from __future__ import annotations

import json

from csa.tracking.followed import FollowedSweep

MEANS = {"ce": {"all": 50.123456, "few": 10.0, "seeds": 3.0}, "csa <0.3>": {"all": 60.0, "seeds": 1.0}}


def started(uri, name="method-seed-abc", title="digits_lt: method x seed") -> FollowedSweep:
    sweep = FollowedSweep(name, title, uri, "csa")
    assert sweep.look(0)
    return sweep


def ended(sweep: FollowedSweep, means: dict | None) -> None:
    sweep.end = None if means is None else {"status": "FINISHED", "counts": {"done": 4}, "means": means}
    sweep.is_over = True
    assert sweep.look(0)


def test_a_sweep_has_its_means_as_metrics_as_a_table_and_in_words(uri, client, tmp_path):
    first, second = started(uri), started(uri)
    run_id = first.run_id
    assert second.run_id == run_id
    ended(first, {"ce": {"all": 1.0}})  # started again meanwhile: not its to close
    assert client.get_run(run_id).info.status == "RUNNING"
    ended(second, {"ce": {"all": 2.0}})
    ended(started(uri), MEANS)  # and once more, with other means
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "digits_lt: method x seed")
    assert run.data.metrics == {
        "ce/all": 50.12, "ce/few": 10.0, "ce/seeds": 3.0, "csa _0.3_/all": 60.0, "csa _0.3_/seeds": 1.0,
    }  # fmt: skip
    assert "| ce | 50.12 | 10.0 | 3.0 |" in run.data.tags["mlflow.note.content"]
    table = json.loads((tmp_path / client.download_artifacts(run_id, "means.json", str(tmp_path))).read_text())
    assert table == {
        "columns": ["cell", "all", "few", "seeds"],
        "data": [["ce", 50.12, 10.0, 3.0], ["csa <0.3>", 60.0, None, 1.0]],
    }


def test_a_killed_sweep_has_none(uri, client):
    sweep = started(uri)
    ended(sweep, None)
    assert client.get_run(sweep.run_id).info.status == "KILLED"
    assert client.get_run(sweep.run_id).data.metrics == {}

"""The MLflow run of a sweep: found again by its name, called after what it is, with the means of its cells."""

from __future__ import annotations

import json

from csa.sweep.parent_run import close_run, open_run

MEANS = {"ce": {"all": 50.123456, "few": 10.0, "seeds": 3.0}, "csa <0.3>": {"all": 60.0, "seeds": 1.0}}


def test_a_sweep_has_its_means_as_metrics_as_a_table_and_in_words(uri, client, tmp_path):
    _, run_id = open_run(uri, "csa", "method-seed-abc", "digits_lt: method x seed", "first")
    _, again = open_run(uri, "csa", "method-seed-abc", "digits_lt: method x seed", "second")
    assert again == run_id
    end = {"status": "FINISHED", "counts": {"done": 4}, "means": MEANS}
    close_run(client, run_id, "first", end)  # started again meanwhile: not its to close
    assert client.get_run(run_id).info.status == "RUNNING"
    close_run(client, run_id, "second", end)
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "digits_lt: method x seed")
    assert run.data.metrics == {
        "ce/all": 50.12, "ce/few": 10.0, "ce/seeds": 3.0, "csa _0.3_/all": 60.0, "csa _0.3_/seeds": 1.0,
    }  # fmt: skip
    assert "| ce | 50.12 | 10.0 | 3.0 |" in run.data.tags["mlflow.note.content"]
    table = json.loads((tmp_path / client.download_artifacts(run_id, "means.json", str(tmp_path))).read_text())
    assert table["columns"] == ["cell", "all", "few", "seeds"]
    assert table["data"][0] == ["ce", 50.12, 10.0, 3.0]


def test_a_killed_sweep_has_none(uri, client):
    _, run_id = open_run(uri, "csa", "name", "title", "start")
    close_run(client, run_id, "start", None)
    assert client.get_run(run_id).info.status == "KILLED"
    assert client.get_run(run_id).data.metrics == {}

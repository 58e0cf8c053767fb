"""An encoder measured on data that it was not trained on."""

from ssl_domains.cli import main
from ssl_domains.evaluation.results import Evaluation


def test_transfer_measures_on_other_data(finished, write_table, tmp_path, capsys):
    run, _, _ = finished
    other = write_table(tmp_path / "other.csv", rows=60, seed=5)
    out = tmp_path / "moved"
    command = ["transfer", str(run.path), "--data", str(other), "data.label=price", "--out", str(out)]
    assert main(command) == 0
    found = Evaluation.load(out)
    assert sum(found.n_rows.values()) == 60
    assert found.find("linear") is not None
    assert found.find("linear", "random") is not None
    assert (out / "report.html").stat().st_size > 10_000
    capsys.readouterr()
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["transfer", str(run.path)]) == 2
    assert "say on what to measure" in capsys.readouterr().err

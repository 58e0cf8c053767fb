"""The command line: exit codes, one sentence on standard error for each error, nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ssl_domains.cli import main


@pytest.fixture
def shell(capsys, monkeypatch, tmp_path):
    """Runs a command in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        code = main([str(item) for item in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_help_and_version(shell):
    code, out, _ = shell("--help")
    assert code == 0
    verbs = "pretrain evaluate embed integrate inspect profile report list show copy diff export doctor"
    verbs += " quickstart"
    for verb in verbs.split():
        assert f"  {verb} " in out
    code, out, _ = shell("--version")
    assert code == 0
    assert "ssl-domains" in out


def test_a_warning_is_a_sentence_without_our_line_of_code(shell, monkeypatch):
    import warnings

    from ssl_domains import cli

    monkeypatch.setattr(cli.cli, "main", lambda **_: warnings.warn("3 files left out", stacklevel=2))
    code, _, err = shell("list")
    assert code == 0
    assert err == "warning: 3 files left out\n"


def test_pretrain_then_everything_else(shell, tiny, table):
    code, out, err = shell("pretrain", tiny, "run=first", "--quiet")
    assert (code, "Traceback" in err) == (0, False)
    assert "linear" in out
    assert "first/report.html" in out.replace("\n", "")

    code, _, err = shell("pretrain", tiny, "run=first", "--quiet")
    assert code == 2
    assert "error: " in err
    assert "--resume" in err

    code, out, _ = shell("embed", "first", "--data", table, "--out", "vectors.parquet")
    assert code == 0
    assert os.path.getsize("vectors.parquet") > 0

    code, out, _ = shell("evaluate", "first", "evaluate.seeds=2")
    assert code == 0
    assert "random encoder" in out

    assert shell("report", "first")[0] == 0
    code, out, _ = shell("export", "first", "--out", "mine")
    assert code == 0
    assert "ssl_domains.load('mine')" in out

    code, out, _ = shell("show", "first")
    assert code == 0
    code, out, _ = shell("diff", tiny, "first")
    assert code == 0
    code, out, _ = shell("pretrain", "first", "--resume", "--quiet")
    assert code == 0


def test_missed_expectations_fail_only_when_asked(shell, tiny):
    wish = "expect={linear: '>= 100'}"
    code, out, _ = shell("pretrain", tiny, "run=a", "train.steps=1", wish, "--quiet")
    assert code == 0
    assert "expected >= 100" in out.replace("\n", " ")
    code, _, err = shell("pretrain", tiny, "run=b", "train.steps=1", wish, "--quiet", "--check")
    assert code == 2
    assert "expect is not met" in err


def test_a_bad_recipe_lists_all_errors(shell, tiny):
    code, _, err = shell(
        "pretrain", tiny, "train.stepss=3", "encoder.widht=x", "mask.n_targets=many", "run=new"
    )
    assert code == 2
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 3
    assert "did you mean 'width'" in err
    assert "Traceback" not in err
    assert not os.path.exists("new")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("age,price\n", "row"),
        ("age,price\n1,2\n3\n", "line|row"),
        ("age,age\n1,2\n3,4\n", "age"),
    ],
)
def test_bad_tables_end_in_a_sentence(shell, tiny, content, words):
    import re

    with open("bad.csv", "w") as file:
        file.write(content)
    code, _, err = shell("pretrain", tiny, "data.source=bad.csv", "run=new", "--quiet")
    assert code == 2
    assert re.search(words, err)
    assert "Traceback" not in err
    assert not os.path.exists("new")


def test_a_missing_label_suggests_the_nearest(shell, tiny, table):
    code, _, err = shell(
        "pretrain", tiny, f"data.source={table.with_suffix('.csv')}", "data.label=prise", "run=new"
    )
    assert code == 2
    assert "price" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("pretrain", "nothing/here"),
        ("pretrain", "nothing/here", "--resume"),
        ("evaluate", "nowhere"),
        ("report", "nowhere"),
        ("export", "nowhere"),
        ("embed", "nowhere", "--data", "x.csv", "--out", "y.parquet"),
        ("embed", "nowhere"),
        ("inspect", "nothing.csv"),
        ("inspect", "thing.unknown"),
        ("inspect",),
        ("show", "tabular/t_jepa", "train.epochs=x"),
        ("show", "tabular/t_jepa", "no-equals-sign"),
        ("list", "nonsense"),
        ("copy", "nonsense"),
        ("diff", "tabular/t_jepa", "nonsense"),
        ("pretrain", "tabular/t_jepa", "--plugin", "absent.py"),
        ("nonsense",),
        ("pretrain", "--nonsense"),
    ],
)
def test_wrong_input_is_2_without_a_traceback(shell, arguments):
    code, _, err = shell(*arguments)
    assert code == 2
    assert err.strip()
    assert "Traceback" not in err
    assert os.listdir() == []


def test_a_bug_is_1_with_a_traceback(shell, monkeypatch):
    from ssl_domains import checks

    monkeypatch.setattr(checks, "doctor", lambda: 1 / 0)
    code, _, err = shell("doctor")
    assert code == 1
    assert "ZeroDivisionError" in err
    assert "please report" in err


def test_light_verbs(shell, table):
    code, out, _ = shell("list")
    assert code == 0
    assert "tabular/t_jepa" in out
    assert "latent_prediction" in out
    code, out, _ = shell("list", "encoders")
    assert "ft_transformer" in out
    assert shell("doctor")[0] == 0
    code, out, _ = shell("inspect", table, "data.label=price")
    assert code == 0
    assert "domain: tabular" in out
    code, out, _ = shell("inspect", f"data.source={table}")
    assert code == 0
    code, out, _ = shell("show", "tabular/t_jepa", "train.seed=3")
    assert code == 0
    assert "override train.seed=3" in out
    assert "# default" in out
    assert "recipes/tabular/t_jepa.yaml:" in out
    code, out, _ = shell("copy", "tabular/t_jepa", "mine.yaml")
    assert code == 0
    assert shell("diff", "mine.yaml", "tabular/t_jepa")[1].strip() == "no difference"


def test_profile(shell, tiny):
    code, out, _ = shell("profile", tiny)
    assert code == 0
    assert "backward" in out


def test_ctrl_c_saves_and_names_the_command(tiny, tmp_path):
    command = [
        sys.executable,
        "-m",
        "ssl_domains.cli",
        "pretrain",
        str(tiny),
        "train.steps=100000",
        "--quiet",
    ]
    with subprocess.Popen(
        [*command, "run=cut"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        metrics = tmp_path / "cut" / "metrics.jsonl"
        for _ in range(1200):
            if (metrics.exists() and metrics.stat().st_size) or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "ssl-domains pretrain cut --resume" in err
    assert "Traceback" not in err
    assert list((tmp_path / "cut" / "checkpoints").iterdir())

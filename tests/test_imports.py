"""Importing the package, and asking for help, must not load torch."""

import subprocess
import sys

import pytest

import ssl_domains


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("package", ["torch", "numpy", "pydantic", "rich", "pyarrow", "matplotlib"])
def test_import_is_light(package):
    code = f"import sys, ssl_domains, ssl_domains.cli; dir(ssl_domains); print({package!r} in sys.modules)"
    assert _run(code) == "False"


def test_help_does_not_import_torch():
    code = (
        "import sys; from ssl_domains.cli import main; code = main(['--help']); "
        "code += main(['pretrain', '--help']) + main(['--version']); print(code, 'torch' in sys.modules)"
    )
    assert _run(code) == "0 False"


def test_names_are_few_and_all_there():
    assert len(ssl_domains.__all__) <= 20
    for name in ssl_domains.__all__:
        assert getattr(ssl_domains, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(ssl_domains, "nonsense".lower())


def test_a_name_stays_what_it_is_after_its_module_was_imported():
    from ssl_domains._quickstart import quickstart
    from ssl_domains.checks import doctor

    assert ssl_domains.doctor is doctor
    assert ssl_domains.quickstart is quickstart


def test_reading_recipe_files_does_not_import_torch():
    code = "import sys; from ssl_domains.recipe import shipped; shipped(); print('torch' in sys.modules)"
    assert _run(code) == "False"

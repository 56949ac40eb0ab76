"""What the command line does is a call of the same name, imported late."""

import inspect
import subprocess
import sys

import pytest

import partimento
from partimento import lab

OF_THE_LAB = ("ablate", "compare", "doctor", "log", "memorised", "rank", "report", "score", "track", "watch")


@pytest.mark.parametrize("name", [*partimento._CALLS])
def test_every_name_is_a_function_that_is_told_what_it_does(name):
    call = getattr(partimento, name)
    assert inspect.isfunction(call) and call.__doc__


def test_those_of_the_laboratory_are_all_there_and_the_same_in_both_places():
    assert {*OF_THE_LAB} <= {*partimento.__all__}
    for name in lab._CALLS.keys() & partimento._CALLS.keys():
        assert getattr(lab, name) is getattr(partimento, name)
    with pytest.raises(AttributeError, match="nothing"):
        lab.nothing


def test_to_import_the_package_costs_nothing():
    code = "import sys, partimento, partimento.lab; print(sorted({'torch', 'numpy', 'jinja2'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

"""The list of wrong versions in mutants.py still fits the code. That each is caught: python tests/mutants.py"""
import ast

import pytest

from mutants import MUTANTS, find


@pytest.mark.parametrize("file, name, right, wrong", MUTANTS, ids=[f"{m[0]}: {m[1]}" for m in MUTANTS])
def test_the_line_is_in_the_code_once_and_its_wrong_version_is_a_program(file, name, right, wrong):
    changed = find(file, right).replace(right, wrong)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(find(file, right)))


def test_every_wrong_version_is_another_one():
    assert len({(m[0], m[2], m[3]) for m in MUTANTS}) == len({(m[0], m[1]) for m in MUTANTS}) == len(MUTANTS) >= 55

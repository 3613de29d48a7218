"""Every size of a block is small in the tests, or is said to be none."""

import ast
from pathlib import Path

import spotesm
from blocks import NO_BLOCK, SMALL, large_numbers

# Seconds of an hour, and bytes of a kB as Linux says it.
WITHIN_FUNCTIONS = {3600, 1024}


def test_every_block_is_small_or_named_as_none() -> None:
    found = set(large_numbers())
    assert found <= SMALL.keys() | NO_BLOCK.keys()
    assert NO_BLOCK.keys() <= found
    assert not SMALL.keys() & NO_BLOCK.keys()


def test_no_size_hides_in_a_function() -> None:
    """Where no fixture reaches it: as a number, a shift, or a default."""
    for path in sorted(Path(spotesm.__file__).parent.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                where = f"{path}:{getattr(node, 'lineno', '')}"
                if isinstance(node, ast.BinOp) and isinstance(node.op, ast.LShift | ast.Pow):
                    assert not isinstance(node.right, ast.Constant) or node.right.value < 10, where
                if isinstance(node, ast.Constant) and type(node.value) is int:
                    assert node.value < 1000 or node.value in WITHIN_FUNCTIONS, where

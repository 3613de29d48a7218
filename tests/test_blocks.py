"""Every size of a block is small in the tests, or is said to be none."""

import ast
from pathlib import Path

import spotesm
from blocks import NO_BLOCK, SMALL, large_numbers

MOST = 1 << 40  # whatever is larger is no size
# Seconds of an hour, bytes of a kB and a MB, the most that a header of safetensors has, and what
# fits into 32 bits.
WITHIN_FUNCTIONS = {3600, 1024, 1_000_000, 1 << 27, 1 << 32}


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
                value = value_of(node)
                is_size = 1000 <= value < MOST and value not in WITHIN_FUNCTIONS
                assert not is_size, f"{path}:{getattr(node, 'lineno', '')}: {value}"


def value_of(node: ast.AST) -> int:
    """The number that is written there; 0 of all else."""
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.BinOp(ast.Constant(value=int(a)), ast.LShift(), ast.Constant(value=int(b))):
            return a << b
        case ast.BinOp(ast.Constant(value=int(a)), ast.Pow(), ast.Constant(value=int(b))):
            return a**b
    return 0

#!/usr/bin/env bash
# triton 3.5.1 (which torch 2.9.1 brings) and 3.6.0 beside NumPy 2.4.
#
# Guess: a kernel that runs under Triton's interpreter (TRITON_INTERPRET=1) with one NumPy runs with the next minor release
# too; triton pins no NumPy, and pip installs the newest.
#
# Seen: with NumPy 2.4 the interpreter cannot run a `for` whose bound is an argument of the kernel: InterpreterError
# "TypeError('only 0-dimensional arrays can be converted to Python scalars')".  The interpreter keeps a scalar as an array
# of shape (1,) and turns it into a loop's bound by int(array), a conversion that NumPy 1.25 deprecated for arrays of one
# or more dimensions and 2.4 took away.  NumPy 2.3 runs it, with a warning; triton 3.7.0 squeezes the array first and
# runs.  Kernels without such a loop run everywhere, so half of a test suite may pass.
#
# Source: `tensor.__index__` in triton/runtime/interpreter.py of both releases; NumPy's release notes, 1.25.0 and 2.4.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > kernel.py <<'PYTHON'
import os

os.environ["TRITON_INTERPRET"] = "1"
import triton
import triton.language as tl


@triton.jit
def add_up(n):
    total = 0
    for i in range(n):
        total += i


try:
    add_up[(1,)](3)
    print("runs")
except triton.runtime.errors.InterpreterError as error:
    print("InterpreterError:", error)
PYTHON
python3 -m venv env
run() {
    env/bin/python -m pip install --quiet --disable-pip-version-check "triton==$1" "numpy==$2"
    seen=$(env/bin/python -W ignore kernel.py)
    echo "triton $1, numpy $2: $seen"
    case "$seen" in
        "$3"*) ;;
        *) echo "expected: $3"; exit 1 ;;
    esac
}
run 3.5.1 2.3.5 "runs"
run 3.5.1 2.4.6 "InterpreterError: TypeError('only 0-dimensional arrays can be converted to Python scalars')"
run 3.6.0 2.4.6 "InterpreterError: TypeError('only 0-dimensional arrays can be converted to Python scalars')"
run 3.7.0 2.4.6 "runs"
echo "as described"

#!/usr/bin/env bash
# torchvision 0.29.1, the wheel for Linux x86_64 and Python 3.11 on PyPI.
#
# Guess: since 0.29 the wheel asks for "torch>=2.14.0" instead of one exact release, and its libraries are called
# _C_stable.so and image_stable.so, after torch's stable ABI.  So the wheel should work beside any build of torch 2.14,
# the CPU build too.
#
# Seen: both are linked against libtorch_cuda.so, libc10_cuda.so and a libcudart, which no CPU build of torch has, even
# image_stable.so, which decodes pictures.  Beside a CPU build `import torchvision` ends in "RuntimeError: operator torchvision::nms does not exist": the loader's
# error is swallowed, and the first operator that is registered from Python is the one that is missed.  The metadata
# cannot say this, so pip installs the pair without a word.
#
# Source: the wheel's METADATA and the dynamic sections of its two libraries.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --platform manylinux_2_28_x86_64 --python-version 3.11 torchvision==0.29.1
python3 -m venv env
env/bin/python -m pip install --quiet --disable-pip-version-check pyelftools==0.32
env/bin/python - torchvision-*.whl <<'PYTHON'
import io
import re
import sys
import zipfile

from elftools.elf.elffile import ELFFile

wheel = zipfile.ZipFile(sys.argv[1])
metadata = wheel.read("torchvision-0.29.1.dist-info/METADATA").decode()
asked = re.search(r"(?m)^Requires-Dist: torch\b(.*)$", metadata)[1].strip()
print("asks for torch", asked)


def needs(name):
    dynamic = ELFFile(io.BytesIO(wheel.read(name))).get_section_by_name(".dynamic")
    return {tag.needed for tag in dynamic.iter_tags("DT_NEEDED")}


libraries = ["_C_stable.so", "image_stable.so"]
found = {name: sorted(other for other in needs(f"torchvision/{name}") if "cuda" in other) for name in libraries}
print(found)
assert asked.strip("()") == ">=2.14.0", asked
assert found == {
    "_C_stable.so": ["libc10_cuda.so", "libcudart.so.13", "libtorch_cuda.so"],
    "image_stable.so": ["libc10_cuda.so", "libcudart.faf08d9a.so.13", "libtorch_cuda.so"],
}, found
PYTHON
echo "as described"

#!/usr/bin/env bash
# From a fresh clone to a model that thinks: installs the packages, builds, quantizes r1-nano, asks it a question.
# usage: bash examples/quickstart.sh ["a question"]
set -euo pipefail
cd "$(dirname "$0")/.."
question=${1:-What is 4817 + 2956?}
model=build/r1-nano-r4.5

bash examples/install_packages.sh
echo "== Building (a few minutes the first time)"
cmake --preset release -DR1_BUILD_TESTS=OFF >build.log 2>&1 && cmake --build --preset release >>build.log 2>&1 ||
  { tail -n 30 build.log; echo "the build failed; build.log has all of it" >&2; exit 1; }
rm -f build.log

echo "== Quantizing examples/r1-nano (FP8) to $model"
build/release/bin/r1-quantize examples/r1-nano "$model" --recipe r4.5

echo "== Asking: $question"
build/release/bin/r1 run "$model" --greedy --prompt "$question"

cat <<END

Next:
  build/release/bin/r1 chat $model                      talk to it
  build/release/bin/r1 doctor                           what this machine is and which kernels it gets
  build/release/bin/r1-quantize --plan --recipe r2.7 DIR   what your own checkpoint would become
END

#!/usr/bin/env bash
# Installs what is missing, builds Release and runs every test. Arguments go to ctest (e.g. -R tokenizer).
set -euo pipefail
cd "$(dirname "$0")/.."
bash examples/install_packages.sh
cmake --preset release -DR1_BUILD_TESTS=ON -DR1_WERROR=ON
cmake --build --preset release
ctest --preset release --parallel "$(nproc)" "$@"

#!/usr/bin/env bash
# scripts/measure-gpu where there is no GPU, and, with stand-ins for the programs, what becomes of its parts:
#   measure_gpu.sh SOURCE BUILD WORK
set -euo pipefail
source=$1 build=$2 work=$3
measure=$source/scripts/measure-gpu
rm -rf "$work"
mkdir -p "$work"

fail() { echo "FAILED: $*"; exit 1; }
expect() { # TEXT PATTERN
  grep -qE -- "$2" <<< "$1" || fail "no \"$2\" in: $1"
}

# The programs as they were built, or not.
said=$("$measure" --build "$build" --out "$work/none" list 2>&1)
expect "$said" '^kernels-products +kernels +not measured'
if grep -q '^no CUDA device\|was not found\|there; build it' <<< "$said"; then
  said=$("$measure" --build "$build" --out "$work/none" check kernels 2>&1)
  expect "$said" 'kernels-attention: not measured: '
  expect "$said" 'no CUDA device|was not found|there; build it'
  [[ ! -e $work/none ]] || fail "results without a device"
fi
expect "$("$measure" --out "$work/none" table)" "decoding step .* not measured"
if "$measure" --build "$build" --out "$work/none" nonsense 2> /dev/null; then fail "a part that isn't there"; fi

# Stand-ins: a device, and a benchmark that ends as the file `mood` says.
mkdir -p "$work/build/benchmarks"
cat > "$work/build/benchmarks/cuda_benchmark" << 'STAND_IN'
#!/usr/bin/env bash
[[ $1 != --describe ]] || { echo "device: Stand-in 1"; exit 0; }
for argument; do [[ $argument != --benchmark_out=* ]] || out=${argument#*=}; done
echo '{"benchmarks": [{"name": "copy", "real_time": 1}]}' > "$out"
exit "$(cat "$(dirname "$0")/mood")"
STAND_IN
printf '#!/bin/sh\necho "foretoken 1"\n' > "$work/build/foretoken"
chmod +x "$work/build/foretoken" "$work/build/benchmarks/cuda_benchmark"
run() { "$measure" --build "$work/build" --out "$work/results" "$@" 2>&1; }

echo 3 > "$work/build/benchmarks/mood"
expect "$(run kernels-machine)" 'not measured: failed \(exit 3\)'
[[ ! -e $work/results/kernels-machine.json && ! -e $work/results/kernels-machine.txt ]] || fail "half a result"
echo 0 > "$work/build/benchmarks/mood"
expect "$(run kernels-machine kernels-small)" 'kernels-small: done'
grep -q '^# device: Stand-in 1' "$work/results/kernels-machine.txt" || fail "no header"
grep -q '^# command: .*cuda_benchmark --benchmark_filter' "$work/results/kernels-machine.txt" || fail "no command"
[[ -s $work/results/kernels-machine.json ]] || fail "no data"
expect "$(run kernels-machine)" 'done already'
expect "$(run --again kernels-machine)" 'kernels-machine: done$'
expect "$(run list)" '^kernels-small +kernels +done'
expect "$(run --within 5 repeat-machine)" 'left for another call'
expect "$(run model-bfloat16)" 'not measured'

# A test program of three tests, of which one passes, one is skipped and one fails.
mkdir -p "$work/build/tests/cuda"
cat > "$work/build/tests/cuda/device_test" << 'STAND_IN'
#!/usr/bin/env bash
case $* in
  *list_tests*) printf 'Suite.\n  Passes\n  Skips\n  Fails\n' ;;
  *Skips*) echo '[  SKIPPED ] Suite.Skips' ;;
  *Fails*) echo 'one is not two'; exit 1 ;;
esac
STAND_IN
chmod +x "$work/build/tests/cuda/device_test"
expect "$(run tests)" '^1 passed, 1 skipped, 1 failed$'
grep -q 'one is not two' "$work/results/tests.txt" || fail "the reason of a test is lost"
if find "$work/results" -name '*.tmp' | grep -q .; then fail "temporary files stay"; fi
echo "all as it should be"

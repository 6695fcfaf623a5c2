#!/usr/bin/env bash
# scripts/measure-strategies on a list of two runs, executed here, and what `validate --runs` makes of the records:
#   measure_strategies.sh SOURCE BUILD WORK
set -euo pipefail
source=$1 build=$2 work=$3
rm -rf "$work"
mkdir -p "$work/scenarios/strategies"
cp -r "$source"/scenarios/{cpu-busy.json,models} "$work/scenarios/"
list=$work/scenarios/strategies/two.list
few='--num-prompts 12 --max-concurrency 6'
{
  echo "# comment"
  echo "busy | cpu-busy | yes | | | $few"
  echo "static | cpu-busy | no | busy | static batches | $few --behavior static --max-num-seqs 8 --max-num-batched-tokens 1024"
} > "$list"

fail() { echo "FAILED: $*"; exit 1; }
expect() { # TEXT PATTERN
  grep -qE -- "$2" <<< "$1" || fail "no \"$2\" in: $1"
}
measure() { "$source/scripts/measure-strategies" --build "$build" --repeats 2 --budget 1 "$@" 2>&1; }

# Interrupted at once, then in earnest: nothing is measured twice.
said=$(measure --within 0 "$list" "$work/out") && fail "done without measuring"
expect "$said" '2 runs, 2 of them not yet measured 2 times'
said=$(measure "$list" "$work/out") || fail "$said"
expect "$said" '2 runs, 0 of them'
said=$(measure "$list" "$work/out") || fail "$said"
! grep -q executing <<< "$said" || fail "measured again: $said"
[[ $(grep -c '"date"' "$work/out/busy/measured.json") == 2 ]] || fail "not two repeats"
grep -q '"spread"' "$work/out/busy/measured.json" || fail "no spread"

# The records carry their rows and models: they mean the same anywhere.
mv "$work/out" "$work/moved"
said=$(cd / && XDG_DATA_HOME=$work/none "$build/foretoken" validate --runs "$work/moved")
expect "$said" '^static batches +busy +mean_ttft_ms'
expect "$said" '^static batches +busy +output_throughput'
expect "$said" 'refused 0'
with=$("$build/foretoken" validate --runs "$work/moved" -o csv | cut -d, -f5)
without=$(XDG_DATA_HOME=$work/none "$build/foretoken" validate --runs "$work/moved" --without-rows -o csv | cut -d, -f5)
[[ $with != "$without" ]] || fail "rows.csv makes no difference"

# Another scenario's run is not mixed in.
said=$("$build/foretoken" run "$work/scenarios/cpu-busy.json" --num-prompts 2 --record "$work/moved/busy" 2>&1) && fail "mixed"
expect "$said" 'holds a run of another scenario'
# Wrong lists.
echo "busy | nothing | yes | | |" > "$list"
said=$(measure "$list" "$work/out") && fail "no scenario"
expect "$said" 'there is no .*nothing.json'
echo "static | cpu-busy | no | busy | static |" > "$list"
said=$(measure "$list" "$work/out") && fail "no baseline"
expect "$said" "compared with busy, which isn't in the list"

#!/bin/sh
# Makes hwdb/data/measured again from the operator tables of ai-dynamo/aiconfigurator converted to CSV (Apache-2.0),
# and writes the shapes that are held out for validation into ASIDE.
# usage: select_measurements.sh TOOL DATABASE TABLES ASIDE [INFERSIM]   (see docs/hardware-data.md)
# INFERSIM: a folder with the tables of alibaba/InferSim (Apache-2.0)
set -eu
tool=$1 database=$2 tables=$3 aside=$4
out=$(dirname "$0")/measured
mkdir -p "$out" "$aside"
commit=095f58a
base="ai-dynamo/aiconfigurator $commit systems/data"
select() { "$tool" --db "$database" --out "$out" --aside "$aside" "$@"; }
for system in h100_sxm h200_sxm a100_sxm b200_sxm l40s gb200 b60; do
  echo "== $system"
  select --tolerance 0.015 --source "$base/$system gemm_perf" "$tables/gemm_$system.csv.gz"
  select --tolerance 0.01 --source "$base/$system context_attention_perf" "$tables/context_attention_$system.csv.gz"
  select --tolerance 0.01 --source "$base/$system generation_attention_perf" \
    "$tables/generation_attention_$system.csv.gz"
  select --tolerance 0.02 --source "$base/$system moe_perf" "$tables/moe_$system.csv.gz"
done
echo "== MLA"
select --tolerance 0.01 --source "$base context_mla_perf" "$tables/context_mla.csv.gz"
select --tolerance 0.01 --source "$base generation_mla_perf" "$tables/generation_mla.csv.gz"
select --name mla_bmm --tolerance 0.015 --source "$base mla_bmm_perf" "$tables/mla_bmm.csv.gz"
echo "== linear attention, exchanges of experts' rows"
select --tolerance 0.01 --source "$base gdn_perf" "$tables/gdn.csv.gz"
select --name mamba2 --tolerance 0.01 --source "$base mamba2_perf" "$tables/mamba2.csv.gz"
select --source "$base wideep_deepep_ll_perf" --name deepep_ll "$tables/deepep_ll.csv.gz"
select --source "$base wideep_deepep_normal_perf" --name deepep_normal "$tables/deepep_normal.csv.gz"
echo "== collectives"
select --source "$base nccl_perf, custom_allreduce_perf" \
  "$tables/nccl_collectives.csv.gz" "$tables/custom_allreduce.csv.gz"
if [ -d "${5:-}" ]; then
  echo "== H20 and H800"
  select --source "alibaba/InferSim (Apache-2.0)" "$5"/*.csv
fi

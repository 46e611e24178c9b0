#!/bin/bash
#SBATCH --job-name=batchinfer-join
#SBATCH --output=batchinfer-join-%j.log
# Makes one output of the parts that array.sh has written. It fails if a request is
# missing or answered twice:
#
#	sbatch --dependency=afterok:JOB deploy/slurm/join.sh INPUT PARTS OUTPUT
set -euo pipefail
input=${1:?the input} parts=${2:?the directory of the parts} output=${3:?the output}
exec batchinfer join -input "$input" -output "$output" "$parts"/*.jsonl

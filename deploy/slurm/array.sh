#!/bin/bash
#SBATCH --job-name=batchinfer
#SBATCH --array=0-63
#SBATCH --output=batchinfer-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --cpus-per-task=1
# Each task of the array sends its shard of the requests and writes PARTS/I.jsonl:
#
#	sbatch array.sh INPUT PARTS [FLAG]...
#	sbatch array.sh requests.jsonl parts -url http://gateway:8000 -config batch.yaml
#
# A task that is preempted, whose node fails, whose time ends or whose requests failed
# runs again, and sends only the requests that have no answer yet. To repeat some tasks
# by hand, submit the whole array: those that are complete end immediately.
set -uo pipefail
input=${1:?the input is missing} parts=${2:?the directory of the parts is missing}
shift 2
mkdir -p "$parts" || exit

batchinfer -input "$input" -output "$parts/{shard}.jsonl" -shard auto "$@" &
child=$!
# Before it requeues or cancels a task, Slurm sends SIGTERM to all its processes. Before
# the time of a task ends, it sends SIGUSR1, and only to this script.
stopping=
trap 'stopping=yes' TERM
trap 'kill -TERM "$child"' USR1
wait "$child"
status=$?
if [ "$status" -gt 128 ]; then # perhaps a trap has interrupted it
  wait "$child"
  status=$?
fi

# The next run would repeat a mistake in usage, config, input or output, which is status 2.
case $stopping$status in 0 | 2 | yes*) exit "$status" ;; esac
if [ "${SLURM_RESTART_COUNT:-0}" -ge "${BATCHINFER_RESTARTS:-10}" ]; then
  echo "batchinfer ended with status $status, and the task was restarted ${SLURM_RESTART_COUNT:-0} times: giving up"
  exit "$status"
fi
echo "batchinfer ended with status $status: the task runs again"
# The SLURM_JOB_ID of one of the tasks means the whole array.
scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" && sleep 60 # until Slurm ends this run
exit "$status"

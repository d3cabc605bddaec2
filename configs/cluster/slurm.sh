#!/usr/bin/env bash
# A run on SLURM: one task per node, and each task starts `launch.sh multinode`.
#@ `./launch.sh slurm CONFIG` fills this in and submits it; --dry-run prints it without these lines. To use
#@ it by hand, replace every word between two @.
#SBATCH --job-name=@NAME@
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=1
@OPTIONS@
#SBATCH --chdir=@DIRECTORY@
#SBATCH --output=@OUTPUT@
# A job that is requeued goes on in the same log.
#SBATCH --open-mode=append
#SBATCH --requeue
# So many seconds before the time limit this script (B:) gets a TERM: long enough for one checkpoint.
#SBATCH --signal=B:TERM@@GRACE@
set -uo pipefail

run=(@COMMAND@)

# The nodes meet at the first one, under the address that SLURM itself uses for it. Jobs that share a
# node need ports of their own.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
export RDZV_ENDPOINT="${address:-$first}:$((29400 + SLURM_JOB_ID % 1000))"
export NNODES="$SLURM_JOB_NUM_NODES"
# What is left of an earlier start of this job must not meet the processes of this one.
export RDZV_ID="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
# A process that dies is started again this often within the job.
export MAX_RESTARTS="${MAX_RESTARTS:-3}"

# TERM goes on to the tasks, which save and end with 75. To kill srun instead would kill them at once. It is
# passed on once, since a second one means: at once.
asked=no told=no step=
# shellcheck disable=SC2317,SC2329 # called by the trap
stop() {
    asked=yes
    [[ -n $step && $told == no ]] || return
    told=yes
    echo "triptych: asked to stop; waiting until the run has saved" >&2
    # Fails as long as the step is being started.
    until scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null; do
        kill -0 "$step" 2>/dev/null || return
        sleep 1
    done
}
trap stop TERM

# The lead (node 0) knows how the run ended, so only its code counts. There the launcher takes the place of
# the task's shell: where SLURM tracks processes by cgroup, it signals that one process and no child of it.
# The others are stopped by the lead; their shells outlive a signal, to end with 0 whatever happens.
# shellcheck disable=SC2016 # expanded by the task's own shell
task='export NODE_RANK=$SLURM_NODEID; [[ $NODE_RANK == 0 ]] && exec "$@"; trap : TERM INT; "$@"; exit 0'
# No core is bound: the launcher spreads its processes over those the job has.
srun --kill-on-bad-exit=0 --wait=0 --cpu-bind=none bash -c "$task" triptych "${run[@]}" &
step=$!
[[ $asked == no ]] || stop
while kill -0 "$step" 2>/dev/null; do wait "$step"; done # a signal ends a wait early
wait "$step"
code=$?

# 75: stopped and saved. 143, or any signal after we were asked: stopped before it could say so. But a job
# that somebody cancelled (it no longer counts as running) stays cancelled.
stopped=no
[[ $code -eq 75 || $code -eq 143 || ($asked == yes && $code -gt 128) ]] && stopped=yes
if [[ $stopped == yes && $(squeue --noheader --job "$SLURM_JOB_ID" --format %T) == RUNNING ]]; then
    scontrol requeue "$SLURM_JOB_ID" &&
        echo "triptych: stopped; the job is in the queue again and will continue" >&2
elif [[ $stopped == yes ]]; then
    echo "triptych: stopped; submit the job again to continue" >&2
fi
exit "$code"

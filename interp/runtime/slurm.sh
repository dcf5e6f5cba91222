#!/bin/bash
# Runs a command of GateScope under Slurm, one process for every GPU, on one node or several:
#
#   sbatch slurm.sh interp find-features --model google/medgemma-4b-it --questions mine.jsonl --out run
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 slurm.sh finetune --layers-from run/layers.json --out adapter
#
# In a job array, {task} in the arguments is the number of the task:
#
#   sbatch --array=0-2 slurm.sh finetune ablate --layers-from run/layers.json --seeds {task} --out ablation-{task}
#
#SBATCH --job-name=gatescope
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
set -euo pipefail
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-8}"
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 40000))
# Every process sees all GPUs of its node and takes that of its local rank. If one fails, Slurm ends the others.
exec srun --kill-on-bad-exit=1 bash -c '
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE
  exec "$@"' gatescope "${@//\{task\}/${SLURM_ARRAY_TASK_ID:-}}"

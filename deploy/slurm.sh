#!/bin/bash
# One batch on the nodes of a Slurm job: sbatch deploy/slurm.sh INPUT... --out FOLDER [OPTION...]
# It is to be submitted from the checkout. FARM_STORE must name a store that every node reaches.
#SBATCH --job-name=svd-farm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --time=12:00:00
set -euo pipefail

: "${FARM_STORE:?set it to a store that every node reaches}"
# shellcheck source=/dev/null
. .venv/bin/activate

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_AUTH_MODE=token
ray get-auth-token --generate > /dev/null # in the home folder, which the nodes share

# Starts Ray on every node, runs the batch on the first, and stops Ray. When Slurm requeues the job,
# the batch continues from the store.
srun --kill-on-bad-exit=1 ray symmetric-run --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --disable-usage-stats -- python -m farm.batch "$@"

"""What the job runs on and what may take it away: devices, signals, SLURM."""

"""Training: the state, the rollout, the update step, and what a run leaves on disk."""

"""One loop for everything that learns: jobs, budgets, checkpoints, optimisers, hooks."""

"""Many runs: tuning, ablations, folds, and comparing what came out. Each training is a process of its own."""

"""One recipe, no Optuna: its run folder, its fit, its test behind the gate."""

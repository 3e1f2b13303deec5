"""ids → hidden states: one packed encoder, built from parts. Knows no loss and no task."""

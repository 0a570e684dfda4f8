"""Tables of predictions in, numbers with their uncertainty out; numpy and scipy only."""

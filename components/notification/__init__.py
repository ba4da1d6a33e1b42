"""Exit handler that notifies people of a run's end, whatever its outcome."""

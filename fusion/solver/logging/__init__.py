"""What watches a run: displays, logs, observers, and what they tell."""

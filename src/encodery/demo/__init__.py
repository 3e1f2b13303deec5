"""The demo: gather real text, run all stages on it, and finish with a report and a search prompt."""

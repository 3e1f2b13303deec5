"""The demo: gather real text, run the whole path on it, end with a report and a search prompt."""

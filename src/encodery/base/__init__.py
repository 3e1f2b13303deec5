"""The ground floor: parts, settings, schedules, artifacts, errors, the machine. Imports nothing of ours."""

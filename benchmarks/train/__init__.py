"""One training run, or several side by side: log, event files and picture."""

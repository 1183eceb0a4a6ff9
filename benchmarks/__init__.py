"""Experiments on real and made-up data, from the command line: `python -m benchmarks --help`.

A folder for each question, each with the same rooms: `command.py` is the command line, `measure.py`
does the runs, `tables.py` and `picture.py` show what they amount to.

* `train/`: how does one training run go?
* `grid/`: the paper's experiments, and the report on them.
* `tasks/`: what does one configuration do on eight small tasks?
* `faults/`: what does a run survive, under which guard?
* `detector/`: how often does a detector cry wolf, and how late is it?
* `cost/`: what does a training step cost?

Beside them lies what they share: `data.py`, `models.py`, `optimizers.py`, `training.py` (the
training run as pure functions), `run.py` (what defines one), `outliers.py`, `log.py`, `plots.py`,
`markdown.py`, `choices.py` and `paths.py`. `results/` holds what has been measured.
"""

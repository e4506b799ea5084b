"""From somebody's images to a set that was chosen: what is looked at, decided, tried and finished, and what came of it.

`look` and `mirror` find out what the data are like; `settings`, `portfolio` and `budget` are pure functions from that,
and from the speed of the machine, to configs with reasons; `record` writes down what was decided; `search` does it.
"""

"""Chaos: a run that tries to make Relais lose or repeat work, and a checker that looks.

`./relais chaos --seed 1 --minutes 5`. The way of a run: `play` -> `cluster` (services, proxies,
recorders, processes) -> `load` and `conductor` (faults) -> `collect_history` ->
`checker` -> `report`.
"""

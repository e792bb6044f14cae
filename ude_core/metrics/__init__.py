"""Fairness and accuracy of a disease head, with intervals. Read in this order:

1. `rates`: a scored table becomes weighted counts of its (label x group) cells; rates and AUROC.
2. `disparity`: every metric of the study as a plain function of those counts, and `evaluate`,
   all of them for one table. A metric without a value is `Undefined(reason)`, never 0.
3. `bootstrap`: `score`, the same metrics averaged over repeats, each with a 95 % interval.

Everything is NumPy, and everything reported is in percentage points.
"""

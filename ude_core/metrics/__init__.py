"""Fairness and accuracy of a disease head, with intervals. Read in this order:

1. `rates`: a scored table becomes weighted counts of its (label x group) cells; rates and AUROC.
2. `disparity`: every metric of the study as a plain function of those counts, and `evaluate`,
   all of them for one table. A metric without a value is `Undefined(reason)`, never 0.
3. `bootstrap`: `score`, the same metrics averaged over repeats, each with a 95 % interval, which
   `intervals` makes from the draws, on the metric's own scale (`scales`).
4. `paired`: the difference between two gaps measured on the same images.

Everything is NumPy, and everything reported is in percentage points.
"""

"""Speed: the time that configs take on a device, with random weights; none of it needs data or a trained model.

measurement.measure takes several configs at once and protocol tells what their numbers depend on; heads measures the
draw of a token, models a whole sampling run and a training step. comparisons times two ways to one result, timing lets
ways take turns.
"""

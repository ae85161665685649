"""Random modules and what happens to them between calls, accelerated against as they come.

``sources`` writes a module as Python source, from a seed; ``changes`` writes the steps that are taken with it, as
source too, so a failure is a script. ``worlds`` takes the same steps in several worlds, which share nothing: the plain
module, the same in float64, and the accelerated one. ``rounding`` compares what was seen in them. ``shrinking`` takes
away what a failure doesn't need. ``python -m tests.acceleration.fuzz`` runs it for as long as one likes.
"""

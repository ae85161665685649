"""Results, shown: :mod:`striate.report.tables` on the terminal, :mod:`striate.report.figures` in pictures, and
:mod:`striate.report.measures` for both of what a network costs and sees.

They know the result types (``Epoch``, ``Evaluation``, ``Summary``, ``ReceptiveFields``) and nothing of how these came
about, so whoever makes them can show them. JSON needs no help from here: the types have ``to_dict``.
"""

"""Training's results, shown: :mod:`striate.report.tables` on the terminal, :mod:`striate.report.figures` in pictures.

Both know the result types (``Epoch``, ``Evaluation``, ``Example``) and nothing of how these came about, so whoever
makes them can show them. JSON needs no help from here: the types have ``to_dict``.
"""

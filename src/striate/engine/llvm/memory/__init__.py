"""Layouts of operands in memory, copies between them, and detection of changes.

:mod:`views` makes planes of tensors, :mod:`rows` packs blocks of rows into scratch memory, :mod:`weights` packs weights
in the order of the loops, :mod:`relayout` copies between layouts, :mod:`arenas` lends memory to programs,
:mod:`fingerprints` and :mod:`words` detect whether memory has changed.
"""

"""How operands lie in memory, and what lies there.

:mod:`views` shows tensors as planes of rows, :mod:`rows` copies blocks of rows to scratch memory, :mod:`weights` packs
weights in the order of the loops, :mod:`relayout` copies between layouts, :mod:`arenas` lends memory to plans,
:mod:`fingerprints` and :mod:`words` tell whether memory has changed.
"""

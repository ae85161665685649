"""
The rooms
=========

striate is divided into rooms: folders of ``src/striate`` with one purpose each. A room may use the rooms below it and
knows nothing of those above. So you can read the rooms from the bottom up, and you know where a change may be felt.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import striate

sys.path.append(str(Path(striate.__file__).parents[2] / "docs" / "handbook"))
import tour

# %%
# **All rooms.** ``tour.rooms()`` parses every ``import`` in the sources. An arrow leads from a room to a room that it
# uses. An arrow that follows from others is left out: ``models`` uses ``ops`` too, but the way over ``nn`` shows that.

tour.draw_rooms()
plt.show()

# %%
# **No circles.** A room's level is one more than the highest level that it uses. If two rooms used each other, there
# would be no such number, and ``levels`` would raise an error.

rooms = tour.rooms()
levels = tour.levels(rooms)
for level in range(max(levels.values()) + 1):
    print(level, *sorted(room for room in rooms if levels[room] == level))
assert all(levels[room] > levels[used] for room in rooms for used in rooms[room])

# %%
# **What computes.** These five rooms turn a formula into numbers.
#
# - ``geometry`` knows which input positions an output sees, as whole numbers. It has no tensors and doesn't import
#   PyTorch. One class describes one axis (:class:`striate.Window`), another a whole call (:class:`striate.ConvShape`).
# - ``engine`` computes. It holds the definitions (``engine/reference.py``), the backends that compute the same faster,
#   and the choice among them. ``engine/llvm`` generates machine code.
# - ``ops`` has the public functions, with their derived gradients: :func:`striate.ops.conv2d`.
# - ``nn`` has layers with parameters, as ``torch.nn`` has them.
# - ``acceleration`` runs any PyTorch model on the engine.

assert rooms["geometry"] == set()
assert rooms["engine"] == {"geometry"}
assert rooms["ops"] == {"geometry", "engine"}

# %%
# **What learns.** ``models`` builds networks, a paper a file. ``data`` reads images and their annotations. ``tasks``
# says what a network is trained for: classes, boxes, outlines or class maps. ``training`` runs the loop and writes a
# run's folder.
#
# **What looks inside.** ``analysis`` measures any module: costs, receptive fields, equivariance. ``explain`` shows
# why a network gives its answer. Neither knows the networks of striate, so both work on yours.

assert not rooms["analysis"] & {"models", "nn", "training"}
assert not rooms["explain"] & {"models", "nn", "training"}

# %%
# **What people use.** ``studies`` tests claims of textbooks. ``export`` writes files for other programs. ``report``
# draws results and ``studio`` shows a network in the browser. ``cli`` is the program ``striate``; no room uses it.

assert not any("cli" in used for used in rooms.values())

# %%
# **Where would you begin?**
#
# - *Why is this output 7 pixels wide?* In ``geometry``.
# - *Why is this gradient wrong?* In ``ops``, where it is derived, and in ``engine/reference.py``, where it is defined.
# - *Why is this slow?* In ``engine`` for one operation, in ``acceleration`` for a network.
# - *Which files does a new pooling, backend, network or task need?* The guide :doc:`/guides/extend` lists them.

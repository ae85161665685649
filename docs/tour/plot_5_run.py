"""
A training run
==============

From a recipe to a folder with weights: who does what, in which order, and why a run that was killed can continue. The
recording below is of a real run, on a few handwritten digits.
"""

import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image
from sklearn.datasets import load_digits

import striate
from striate.training import Recipe, Run, fit

sys.path.append(str(Path(striate.__file__).parents[2] / "docs" / "handbook"))
import tour

# %%
# **The data** are 60 images in three folders. The names of the folders are the classes.

place = tempfile.TemporaryDirectory()
photos = Path(place.name, "photos")
digits = load_digits()
for name in ("0", "1", "2"):
    (photos / name).mkdir(parents=True)
    for number, image in enumerate(digits.images[digits.target == int(name)][:20]):
        Image.fromarray((image * 15.9).astype("uint8")).save(photos / name / f"{number}.png")

# %%
# **The recipe** is all that a run depends on. It is a frozen dataclass of plain settings. The run writes it into its
# folder, so that anyone can repeat the run.

folder = str(Path(place.name, "run"))
recipe = Recipe("lenet5", data=f"folder:{photos}", epochs=1, batch_size=16, threads=1, engine="aten", out=folder)
recorded = tour.calls(lambda: fit(recipe))

# %%
# **In order.** The picture shows the first call of each step.

remarks = {
    "training/fitting.py:fit": "from a recipe to a run",
    "training/run.py:task_of": "what is the network trained for?",
    "models/registry.py:create": "the network, with weights from the seed",
    "data/sources.py:gather": "reads all images, finds the faults",
    "data/sources.py:divide": "training and test images, by the seed",
    "training/record.py:Record.of": "which images these are, by content",
    "training/folder.py:locked": "only one process writes to the folder",
    "training/loop.py:Training.run": "the epochs",
    "training/checkpoint.py:Checkpoint.save": "state before the first step",
    "data/batches.py:Batches.epoch": "the epoch's order, by seed and number",
    "training/loop.py:Training._step": "one batch",
    "training/environment.py:seed_step": "random numbers, by seed and step",
    "training/schedule.py:learning_rate": "a function of the step",
    "training/update.py:Updates.step": "loss, gradients, new weights",
    "tasks/classification.py:Classification.assess": "scores of all test images",
    "training/folder.py:append_metrics": "a line of metrics.jsonl",
    "tasks/scores.py:Measures.of": "accuracy, F1, calibration",
    "training/run.py:Run.open": "reads the folder back",
}
tour.draw_path({"striate.training.fit": (recorded, remarks)})
plt.show()

# %%
# **Why a run can continue.** The order of an epoch, the random numbers of a step and the learning rate are functions of
# the seed, the epoch and the step. Nothing depends on how the run came to this step. So a checkpoint holds the weights,
# the optimizer's state and a few counters, and a run that continues ends with the same numbers.
#
# **Why the folder is never half written.** Each file is written beside its place and then renamed.

run = Run.open(folder)
print(*sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith(".")))
assert run.evaluation.n == 12  # a fifth of 60 images was held out
assert run.settings.recipe == recipe

# %%
# **Which room does what?** ``training`` doesn't know what a class or a box is. It asks the task for batches, for a loss
# and for an assessment (``tasks/task.py`` is the contract). So a new task needs no change to the loop;
# :doc:`/guides/extend` lists the files.

place.cleanup()

"""
C2 Which features at which depth?
=================================

What do early, middle and late layers see? (:formula:`C2`, :formula:`S11`, :formula:`S10`, :formula:`S9`)

What a unit can answer to is bounded by what it sees. In ResNet-18 units of the first layers see edges' worth of pixels,
those of the last the whole image. What they do answer to has to be looked at in a trained network: ``striate explain
PHOTO --method hierarchy``. Whether first filters are like Gabor functions is measured by ``striate study
gabor-filters``; how far cortex does the same can't be measured here.
"""

import matplotlib.pyplot as plt

from striate import analysis, models

fields = analysis.receptive_field(models.create("resnet18", num_classes=10), (3, 224, 224))
names = ("conv1", "layer1", "layer2", "layer3", "layer4")
sizes = [fields.at(name).size[0] for name in names]
print(dict(zip(names, sizes, strict=True)))
assert sizes == [7, 43, 99, 211, 435]

# %%
# 435 pixels is more than the 224 of the image: the last layer sees all of it from everywhere.

figure, axis = plt.subplots(figsize=(5, 2.8))
axis.bar(names, sizes)
axis.axhline(224, color="gray", linestyle="--", label="image")
axis.set(ylabel="receptive field, pixels")
axis.legend()
figure.tight_layout()
plt.show()

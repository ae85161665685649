"""
9.4 A simple network for handwritten digits
===========================================

Build a small convolutional network and train it on handwritten digits. (:formula:`9.4`, :formula:`F49`)

The network of the text is ``striate train simple_cnn``. Here a smaller one learns the 8x8 digits that scikit-learn
brings, in seconds; the layers are the same.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

from striate import models, nn

assert sum(weight.numel() for weight in models.create("simple_cnn").parameters()) == 50_186

# %%
torch.manual_seed(0)
images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(load_digits().target)
order = torch.randperm(len(images))
train, test = order[:1400], order[1400:]
network = torch.nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), nn.MaxPool2d(2),
    torch.nn.Flatten(), torch.nn.Linear(32 * 2 * 2, 10),
)  # fmt: skip

# %%
optimizer, losses = torch.optim.Adam(network.parameters(), 3e-3), []
for _ in range(8):
    for batch in train[torch.randperm(len(train))].split(100):
        loss = torch.nn.functional.cross_entropy(network(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

# %%
with torch.no_grad():
    accuracy = float((network(images[test]).argmax(1) == labels[test]).double().mean())
print(f"{100 * accuracy:.1f} % of {len(test)} held-out digits are right")
assert accuracy > 0.93

figure, axis = plt.subplots(figsize=(6, 2.6))
axis.semilogy(losses)
axis.set(xlabel="step", ylabel="cross-entropy", title=f"{100 * accuracy:.1f} % right on held-out digits")
figure.tight_layout()
plt.show()

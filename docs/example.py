"""From a data set to ten images, and from these to a classifier: hpd cell by cell.

Editors that know `# %%` run it as a notebook; `python docs/example.py` runs it whole. It takes few
steps, so that it is over in about a minute: `hpd distill digits` takes enough.
"""

# %% Distil: a bundled configuration, changed by name
import torch
from torch import nn
from torch.utils.data import DataLoader

import hpd

run = hpd.distill(
    "digits",
    "source.steps=10",
    "evaluation.students=[{kind: convnet, width: 16}]",
    "evaluation.training={epochs: 100}",
    "evaluation.full_training=null",
    "evaluation.seeds=2",
    out="runs/example",
)
distilled = run.distilled
print(distilled.images.shape, distilled.classes, f"{distilled.stored_floats:,} floats")

# %% Evaluate: what students make of it, beside as many real images
evaluation = hpd.evaluate(run)
for row in evaluation.rows:
    print(f"{row.name:12} {row.accuracy_mean:5.1f} +- {row.accuracy_std:.1f} %")

# %% Look at it: one file for any browser
print(hpd.report(run))

# %% More images around the distilled ones, from the same generator
more = hpd.sample(run, per_class=5, psi=0.8)
print(len(more.images), "more images")

# %% Hand it on: a folder that needs no hpd to be read
print(hpd.export(run, "imagefolder", "exports/example"))

# %% Train anything on it, in plain torch
torch.manual_seed(0)
student = nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(10))
loader = DataLoader(distilled.tensor_dataset(), batch_size=10, shuffle=True)
batch, _ = next(iter(loader))
student(batch)
optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
for _ in range(200):
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(student(images), labels).backward()
        optimizer.step()

# %% And test it on real images
test = hpd.load_dataset("digits").test
predicted = student(distilled.normalisation.apply(test.unit())).argmax(dim=1)
accuracy = float((predicted == test.labels).float().mean())
print(f"a perceptron, trained on ten images: {accuracy:.1%} of {len(test)} real digits")

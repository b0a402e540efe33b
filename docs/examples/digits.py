"""A small convolutional network for handwritten digits, as a user would write it.

``lepton port digits.py:net ...`` calls :func:`net`, which returns the trained module and example
inputs. Run this file to train it on the digits that scikit-learn ships and to write the weights
and the test samples beside it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "digits.safetensors"
SAMPLES = HERE / "digits.npz"


class DigitsNet(nn.Module):
    """Two convolutions with batch normalisation and a linear head; 8x8 images, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(32 * 4 * 4, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images, float32 [batch, 1, 8, 8] in 0..1, to logits, float32 [batch, 10]."""
        return {"logits": self.classifier(self.features(image).flatten(1))}


def net() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return the trained network and example inputs: the contract of a factory."""
    from safetensors.torch import load_file

    model = DigitsNet()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval(), {"image": torch.zeros(2, 1, 8, 8)}


def train(epochs: int = 20, seed: int = 0) -> float:
    """Train on half of the digits, write weights and the other half, return its accuracy."""
    import numpy as np
    from safetensors.torch import save_file
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # too small to share: on a busy machine more threads wait for minutes
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    seen, held, seen_labels, labels = train_test_split(
        images, digits.target, test_size=0.5, random_state=seed, stratify=digits.target
    )
    model = DigitsNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, y = torch.from_numpy(seen), torch.from_numpy(seen_labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows])["logits"], y[rows]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(torch.from_numpy(held))["logits"].argmax(1).numpy() == labels
    save_file(model.state_dict(), WEIGHTS)
    np.savez(SAMPLES, image=held, labels=labels)
    return float(right.mean())


if __name__ == "__main__":
    print(f"accuracy on {SAMPLES.name}: {train():.1%}")

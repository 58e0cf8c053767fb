"""G-SimCLR's pseudo-labels: clusters of a denoising auto-encoder's codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.cluster_sampler import DistinctClusters
from ssl_domains.core.errors import UserError
from ssl_domains.core.interfaces import Source
from ssl_domains.core.random import hash_ints
from ssl_domains.core.registry import sampler


@sampler("autoencoder_clusters")
class AutoencoderClusters(DistinctClusters):
    """Batches without two images of one cluster; clusters of a denoising auto-encoder's codes.

    Before training, a convolutional auto-encoder learns to give back clean images from noisy ones (on
    the training split alone; the last tenth of it tells when to stop). The means of its code over the
    image are clustered. A resumed run trains it again, to the same result on the same machine.

    Args:
        clusters: K; default the batch size, as the paper.
        filters: channels of the stages; each halves the side. Default the authors' for CIFAR; for
            photographs of 224 they have 64, 128, 256, 512, 1024, kernel 5 and lr 1e-4.
        kernel: side of the convolutions, odd.
        noise: deviation of the Gaussian noise on pixels of 0 to 1.
        lr: of Adam.
        batch_size: images a step.
        epochs: at most.
        patience: epochs without a better held-out error after which it stops.
        seed: of weights, noise and k-means.

    Source: G-SimCLR (arXiv 2009.12007) and its notebooks, whose defaults these are; there, images of
    the test set told when to stop.
    """

    def __init__(
        self,
        clusters: int | None = None,
        filters: Sequence[int] = (32, 64, 128),
        kernel: int = 3,
        noise: float = 0.01,
        lr: float = 1e-3,
        batch_size: int = 64,
        epochs: int = 100,
        patience: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(clusters, "codes", seed)
        if not filters or kernel % 2 == 0:
            raise ValueError(
                f"sampler.filters must name a stage and kernel be odd, got {list(filters)}, {kernel}"
            )
        if not lr > 0 or noise < 0 or min(batch_size - 1, epochs, patience) < 1:
            raise ValueError(
                "sampler: lr, epochs and patience must be positive, batch_size 2 or more, noise not negative"
            )
        self.filters, self.kernel, self.noise, self.lr = tuple(filters), kernel, noise, lr
        self.batch_size, self.epochs, self.patience = batch_size, epochs, patience
        self.errors: list[float] = []

    def features(self, source: Source, rows: np.ndarray) -> np.ndarray:
        """``[n, filters[-1]]`` mean codes of these rows.

        Raises:
            UserError: too few images to train on.
        """
        if len(rows) < 20:
            raise UserError(
                f"sampler 'autoencoder_clusters' wants 20 training images or more, got {len(rows)}"
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(hash_ints(self.seed, 0xAE))
            net = Autoencoder(int(source.fetch(rows[:1]).x.shape[1]), self.filters, self.kernel).to(device)
            self._train(net, source, rows, device)
            return self._codes(net, source, rows, device)

    def _train(self, net: Autoencoder, source: Source, rows: np.ndarray, device: torch.device) -> None:
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(rows)
        held_out, train = np.split(order, [max(len(rows) // 10, 1)])
        optimizer = torch.optim.Adam(net.parameters(), lr=self.lr)
        best, waited, self.errors = np.inf, 0, []
        state = {name: value.clone() for name, value in net.state_dict().items()}
        for _ in range(self.epochs):
            net.train()
            for part in _pieces(rng.permutation(train), self.batch_size):
                clean = _pixels(source, part, device)
                loss = F.mse_loss(net(clean + self.noise * torch.randn_like(clean)), clean)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            self.errors.append(self._error(net, source, held_out, device))
            if self.errors[-1] < best:
                best, waited = self.errors[-1], 0
                state = {name: value.clone() for name, value in net.state_dict().items()}
            else:
                waited += 1
            if waited == self.patience:
                break
        net.load_state_dict(state)

    @torch.no_grad()
    def _error(self, net: Autoencoder, source: Source, rows: np.ndarray, device: torch.device) -> float:
        """Mean squared error on held-out images."""
        net.eval()
        total = torch.zeros((), device=device)
        for start in range(0, len(rows), 256):
            clean = _pixels(source, rows[start : start + 256], device)
            total += (net(clean) - clean).square().mean(dim=(1, 2, 3)).sum()
        return float(total) / len(rows)

    @torch.no_grad()
    def _codes(self, net: Autoencoder, source: Source, rows: np.ndarray, device: torch.device) -> np.ndarray:
        net.eval()
        found = [
            net.code(_pixels(source, rows[start : start + 256], device)).mean(dim=(2, 3)).cpu()
            for start in range(0, len(rows), 256)
        ]
        return torch.cat(found).numpy()


class Autoencoder(nn.Module):
    """Convolution, batch norm, ReLU and pooling down to a code, and the mirror image of it.

    Args:
        channels: of the images.
        filters: channels of the stages.
        kernel: side of the convolutions.
    """

    def __init__(self, channels: int, filters: Sequence[int], kernel: int) -> None:
        super().__init__()
        ins = (channels, *filters[:-1])
        self.down = nn.ModuleList(_stage(i, o, kernel) for i, o in zip(ins, filters, strict=True))
        backward = tuple(reversed(filters))
        ins = (filters[-1], *backward[:-1])
        self.up = nn.ModuleList(_stage(i, o, kernel) for i, o in zip(ins, backward, strict=True))
        self.out = nn.Conv2d(filters[0], channels, kernel, padding=kernel // 2)

    def code(self, x: Tensor) -> Tensor:
        """``[B, filters[-1], h, w]``."""
        for stage in self.down:
            x = F.max_pool2d(stage(x), 2, ceil_mode=True)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` of 0 to 1."""
        sizes = []
        for stage in self.down:
            sizes.append(x.shape[2:])
            x = F.max_pool2d(stage(x), 2, ceil_mode=True)
        for stage, size in zip(self.up, reversed(sizes), strict=True):
            x = stage(F.interpolate(x, size=size))
        return torch.sigmoid(self.out(x))


def _stage(ins: int, outs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, kernel, padding=kernel // 2), nn.BatchNorm2d(outs), nn.ReLU())


def _pieces(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Whole batches, or one smaller one where there is no whole one."""
    n = max(len(rows) // size, 1)
    return [rows[i * size : (i + 1) * size] for i in range(n)]


def _pixels(source: Source, rows: np.ndarray, device: torch.device) -> Tensor:
    x = source.fetch(np.sort(rows)).x.to(device)
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()

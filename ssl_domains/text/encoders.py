"""BERT over token numbers, its masked-language-model head, and the objective of that head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.interfaces import Encoder
from ssl_domains.core.layout import Grid
from ssl_domains.core.parts.grid_predictor import GridPredictor
from ssl_domains.core.registry import encoder
from ssl_domains.text.bodies import fresh, loaded, options_of
from ssl_domains.text.spec import TextSpec


def content_of(spec: TextSpec, ids: Tensor) -> Tensor:
    """``[B, L]`` bool: tokens that are no padding, beginning or end."""
    content = torch.ones_like(ids, dtype=torch.bool)
    for number in spec.special:
        content &= ids != number
    return content


@encoder("text_transformer")
class TextTransformer(Encoder):
    """BERT (Devlin et al., NAACL 2019; the body is that of ``transformers``).

    A token is a word piece; ``Grid((L,))``. Hidden tokens are replaced by the mask token, as BERT does, and
    the special tokens are never hidden. Tokens that hold no content (padding, beginning, end) are marked as
    padding, so no masked loss ever counts them.

    Args:
        spec: the data.
        width: D. Default 512 with ``depth`` 8 and ``heads`` 8: BERT-Medium (Turc et al. 2019, arXiv
            1908.08962, table 1), as CLIP's text encoder (512 wide, 8 heads, 12 deep).
        depth: blocks.
        heads: attention heads.
        ffn: hidden width of the feed-forward parts; None: four times ``width``.
        dropout: in the blocks and on attention. Default 0.1 (BERT).
        pool: ``mean`` over the content, or ``begin``: the state of the first token (BERT's [CLS]).
        weights: folder with ``config.json`` and weights that ``save_pretrained`` wrote, of one of the
            families; its configuration counts, and ``data.tokeniser`` must be its tokeniser.
        family: ``bert``, ``roberta``, ``xlm-roberta``, ``mpnet``, ``distilbert`` or ``electra``; weights say
            theirs themselves.
        config: fields of the family's configuration in transformers, in place of the above.

    Raises:
        ValueError: a family or field that there is not, or sizes that do not fit together.
        UserError: the folder holds none of them, or one with too few tokens or places.
    """

    drops_hidden: ClassVar[bool] = False

    def __init__(
        self,
        spec: TextSpec,
        width: int = 512,
        depth: int = 8,
        heads: int = 8,
        ffn: int | None = None,
        dropout: float = 0.1,
        pool: Literal["mean", "begin"] = "mean",
        weights: str | None = None,
        family: str = "bert",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("mean", "begin"):
            raise ValueError(f"encoder.pool must be mean or begin, got {pool!r}")
        if pool == "begin" and spec.begin < 0:
            raise ValueError("encoder.pool: the tokeniser sets no token at the beginning; use mean")
        if width % heads:
            raise ValueError(f"encoder.width must be divisible by heads, got {width} and {heads}")
        self.spec, self.pool = spec, pool
        self.body: Any
        if weights is None:
            sizes: dict[str, float] = {
                "hidden_size": width,
                "num_hidden_layers": depth,
                "num_attention_heads": heads,
            }
            sizes |= {"intermediate_size": ffn or 4 * width, "hidden_dropout_prob": dropout}
            sizes |= {"attention_probs_dropout_prob": dropout}
            self.body = fresh(spec, family, sizes, dict(config or {}))
        else:
            self.body = loaded(weights, spec)
        self.width = int(self.body.config.hidden_size)

    def forward(self, x: dict[str, Tensor], mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, L, D]``; hidden ones hold what the mask token became."""
        return self._encode(x["ids"], self._words(x["ids"], mask), mask, layers)

    def encode_mixture(
        self, first: dict[str, Tensor], second: dict[str, Tensor], rows: Tensor, share: float
    ) -> Encoded:
        """Embeddings of the words are interpolated; a token counts as content where either text has one."""
        a, b = first["ids"], second["ids"][rows]
        words = share * self._words(a, None) + (1 - share) * self._words(b, None)
        return self._encode(torch.where(content_of(self.spec, a), a, b), words, None, False)

    def _words(self, ids: Tensor, mask: Mask | None) -> Tensor:
        """``[B, L, D]`` embeddings; hidden content becomes the mask token, or another place's word."""
        table = self.body.get_input_embeddings()
        if mask is None:
            return table(ids)
        if mask.substitute is None:
            other = torch.full_like(ids, self.spec.mask)
        else:
            took = ids.flatten()[mask.substitute.clamp(min=0)].view_as(ids)
            other = torch.where(mask.substitute >= 0, took, self.spec.mask)
        return table(torch.where(self._hidden(ids, mask), other, ids))

    def _hidden(self, ids: Tensor, mask: Mask) -> Tensor:
        """What the body must not see: all content that is not context."""
        hidden = mask.hidden
        if mask.context is not None:
            hidden = torch.ones_like(ids, dtype=torch.bool).scatter_(1, mask.context, False)
        return hidden & content_of(self.spec, ids)

    def _encode(self, ids: Tensor, words: Tensor, mask: Mask | None, layers: bool) -> Encoded:
        real = ids != self.spec.pad
        out = self.body(inputs_embeds=words, attention_mask=real.to(torch.int64), output_hidden_states=layers)
        states = out.last_hidden_state
        content = content_of(self.spec, ids)
        seen = content if mask is None else content & ~self._hidden(ids, mask)
        seen = torch.where(seen.any(1, keepdim=True), seen, real)[..., None].to(states.dtype)
        pooled = states[:, 0] if self.pool == "begin" else (states * seen).sum(1) / seen.sum(1).clamp(min=1)
        tokens = Tokens(states, Grid((self.spec.length,)), ~content)
        return Encoded(tokens, pooled, list(out.hidden_states[1:]) if layers else None)

    def as_saved(self, options: Mapping[str, Any], spec: Any) -> tuple[dict[str, Any], Any]:
        """Family and configuration of loaded weights become options."""
        kept, spec = super().as_saved(options, spec)
        if options.get("weights") is not None:
            kept |= options_of(self.body)
        return kept, spec

    def layout(self, x: dict[str, Tensor]) -> Grid:
        """Places in the text."""
        return Grid((self.spec.length,))

    def targets(self, x: dict[str, Tensor]) -> Tokens:
        """``[B, L, 1]`` int64 numbers of the words, for ``masked_tokens``."""
        return Tokens(x["ids"][..., None], self.layout(x), ~content_of(self.spec, x["ids"]))

    @property
    def target_width(self) -> int:
        """1: the number of a word."""
        return 1

    def predictor(  # type: ignore[override]
        self,
        output_width: int,
        *,
        kind: Literal["head", "grid"] = "head",
        width: int | None = None,
        depth: int = 2,
        heads: int = 8,
        tied: bool = True,
    ) -> nn.Module:
        """What hidden tokens were.

        Args:
            output_width: P of a prediction.
            kind: ``head``: BERT's, a layer on what the encoder made of the mask token; ``grid``: a
                transformer that sees visible tokens only (MAE's decoder, I-JEPA's predictor).
            width: of the transformer; None: the encoder's.
            depth: its blocks.
            heads: its attention heads.
            tied: a head over the vocabulary shares the word embeddings (BERT).
        """
        if kind not in ("head", "grid"):
            raise ValueError(f"method.predictor.kind must be head or grid, got {kind!r}")
        if kind == "grid":
            size: dict[str, Any] = {"width": width or self.width, "depth": depth, "heads": heads}
            return VisibleWords((self.spec.length,), self.width, output_width, **size)
        table = self.body.get_input_embeddings().weight
        ties = tied and table.shape == (output_width, self.width)
        return WordHead(self.width, output_width, table if ties else None)

    def input_parameters(self) -> list[nn.Parameter]:
        """Embeddings of words and places."""
        return list(self.body.embeddings.parameters())


class VisibleWords(GridPredictor):
    """A transformer that sees the visible words only; predicts hidden content, never padding."""

    def forward(self, encoded: Encoded, mask: Mask, x: Any = None) -> Tensor:
        """``[M, P]`` in the order of :meth:`Tokens.select`."""
        if mask.targets is None and encoded.tokens.padding is not None:
            mask = replace(mask, hidden=mask.hidden & ~encoded.tokens.padding, context=mask.context_index())
        return super().forward(encoded, mask, x)


class WordHead(nn.Module):
    """BERT's masked-language-model head: ``p(encoded, mask, x) -> [M, output_width]`` (Devlin et al. 2019,
    appendix A; dense, GELU, layer norm, then one score a word).

    Args:
        width: D of the encoder.
        output_width: P.
        table: ``[P, D]`` word embeddings that are the weights of the last layer, or None: weights of its own.
    """

    def __init__(self, width: int, output_width: int, table: nn.Parameter | None) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.out = nn.Linear(width, output_width)
        if table is not None:
            self.out.weight = table

    def forward(self, encoded: Encoded, mask: Mask, x: Any = None) -> Tensor:
        """``[M, P]`` in the order of :meth:`Tokens.select`."""
        hidden = encoded.tokens.select(mask)
        return self.out(self.norm(nn.functional.gelu(self.dense(hidden))))

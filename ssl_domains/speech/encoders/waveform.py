"""Encoders on waveforms from transformers: wav2vec 2.0, HuBERT, WavLM, data2vec; weights from elsewhere
load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ssl_domains.core.batch import Encoded, Mask, Tokens
from ssl_domains.core.errors import UserError
from ssl_domains.core.registry import encoder
from ssl_domains.core.weights import plain_config
from ssl_domains.speech.encoders.base import SpeechEncoder, covered
from ssl_domains.speech.encoders.gru import field_of, filled_up
from ssl_domains.speech.features import Features
from ssl_domains.speech.sound import Sound, mean_real, real
from ssl_domains.speech.spec import SpeechSpec
from ssl_domains.speech.torchaudio_guard import load_torchaudio

FAMILIES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM", "data2vec": "Data2VecAudio"}
SIZES: dict[str, dict[str, Any]] = {
    "base": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    },
    "large": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "do_stable_layer_norm": True,
    },
}  # fmt: skip


class RealGroupNorm(nn.GroupNorm):
    """A group norm over channels and time that counts real frames only: what the first convolution of the
    base models has. Without it the padding of a batch would change all of its recordings. Same weights."""

    lengths: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, N]``."""
        if self.lengths is None:
            return super().forward(x)
        b, c, n = x.shape
        there = real(n, self.lengths)[:, None, None]
        groups = x.float().view(b, self.num_groups, c // self.num_groups, n)
        count = self.lengths[:, None, None, None] * groups.shape[2]
        mean = groups.masked_fill(~there, 0.0).sum(dim=(2, 3), keepdim=True) / count
        gone = (groups - mean).masked_fill(~there, 0.0)
        spread = (gone.square().sum(dim=(2, 3), keepdim=True) / count + self.eps).sqrt()
        normed = ((groups - mean) / spread).view(b, c, n).to(x.dtype)
        return normed * self.weight[:, None] + self.bias[:, None]


@encoder("speech_wav2vec2")
class SpeechWav2Vec2(SpeechEncoder):
    """Convolutions on the waveform (one vector every 20 ms at 16 kHz) and a transformer, as in
    transformers, so that weights trained elsewhere load.

    ``extra["local"]`` is the convolutions' output after layer norm, on which the mask is laid after its
    linear layer; ``extra["convolved"]`` is that output before the norm. Dropout of whole layers is off, since
    probes and tapped layers want all of them.

    Args:
        spec: the data.
        family: ``wav2vec2``, ``hubert``, ``wavlm`` (gated relative positions) or ``data2vec``.
        size: ``base`` (12 blocks of 768) or ``large`` (24 of 1024).
        config: fields of the family's configuration in transformers, in place of the size's
            (``num_hidden_layers``, ``conv_dim`` ...).
        weights: folder that ``save_pretrained`` wrote; its configuration counts, ``size`` and ``config`` do
            not.
        target: what a token held, for masked reconstruction, HuBERT's first round and random projection:
            ``mfcc`` (13 with two differences, 39 in all, as HuBERT) or ``logmel`` (80).
        normalise: waveform to mean 0 and deviation 1 over the recording, as the large models want. Default
            True.
        conv_gradient: factor on the gradient that goes into the convolutions. Default 1, as the authors'
            large models; 0.1 in their base model.

    Raises:
        ValueError: an unknown family, size or field.
        UserError: no weights in the folder, or those of another family.
    """

    gives_convolved: ClassVar[bool] = True

    def __init__(
        self,
        spec: SpeechSpec,
        family: Literal["wav2vec2", "hubert", "wavlm", "data2vec"] = "wav2vec2",
        size: Literal["base", "large"] = "base",
        config: Mapping[str, Any] | None = None,
        weights: str | None = None,
        target: Literal["mfcc", "logmel"] = "mfcc",
        normalise: bool = True,
        conv_gradient: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= conv_gradient <= 1:
            raise ValueError(f"encoder.conv_gradient must lie in [0, 1], got {conv_gradient}")
        self.conv_gradient = conv_gradient
        if family not in FAMILIES or size not in SIZES:
            raise ValueError(f"encoder.family must be one of {', '.join(FAMILIES)}, and size base or large")
        if target not in ("mfcc", "logmel"):
            raise ValueError(f"encoder.target must be mfcc or logmel, got {target!r}")
        load_torchaudio()  # transformers imports it; see there
        import transformers

        model = getattr(transformers, f"{FAMILIES[family]}Model")
        if weights is not None:
            self.model = _loaded(model, weights, family)
        else:
            made = getattr(transformers, f"{FAMILIES[family]}Config")
            fields = set(made().to_dict())
            norm = {"feat_extract_norm": "layer"} if "feat_extract_norm" in fields else {}
            own = {key: value for key, value in SIZES[size].items() if key in fields}
            options = {**norm, **own, **dict(config or {})}
            unknown = sorted(set(options) - fields)
            if unknown:
                raise ValueError(f"encoder.config: {made.__name__} has no field {unknown[0]!r}")
            self.model = model(made(**options))
        of = self.model.config
        of.layerdrop = 0.0
        self.spec, self.width, self.local_width, self.normalise = (
            spec,
            of.hidden_size,
            of.conv_dim[-1],
            normalise,
        )
        self.kernels, self.strides = tuple(of.conv_kernel), tuple(of.conv_stride)
        self.step, self.span = field_of(self.kernels, self.strides)
        _real_norm(self.model.feature_extractor)
        for layer in self._positions():
            layer.register_forward_pre_hook(_without_padding)
        self.mask_token = nn.Parameter(torch.empty(self.width).uniform_())
        if getattr(self.model, "masked_spec_embed", None) is not None:
            self.mask_token.data.copy_(self.model.masked_spec_embed.data)
            self.model.masked_spec_embed = None
        options = {"kind": "mfcc", "deltas": 2} if target == "mfcc" else {"kind": "logmel"}
        self.plain = Features(spec.rate, samples=(self.span, self.step), **options)  # type: ignore[arg-type]

    def forward(self, x: Sound, mask: Mask | None = None, *, layers: bool = False) -> Encoded:
        """Tokens ``[B, N, D]``."""
        values = filled_up(self._normalised(x), self.span)
        norm = getattr(self.model.feature_extractor.conv_layers[0], "layer_norm", None)
        if isinstance(norm, RealGroupNorm):
            norm.lengths = ((x.lengths - self.kernels[0]) // self.strides[0] + 1).clamp_min(1)
        features = self.model.feature_extractor(values).transpose(1, 2)
        if self.conv_gradient != 1.0 and features.requires_grad:
            features.register_hook(lambda gradient: self.conv_gradient * gradient)
        lengths = self.token_lengths(x.lengths)
        for layer in self._positions():
            layer.lengths = lengths
        projection = self.model.feature_projection
        local = projection.layer_norm(features)
        hidden = covered(projection.dropout(projection.projection(local)), mask, self.mask_token)
        states: list[Tensor] = []
        hooks = []
        if layers:
            blocks = self.model.encoder.layers
            hooks = [blocks[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))]
            hooks += [b.register_forward_hook(lambda _, __, out: states.append(_first(out))) for b in blocks]
        try:
            out = self.model.encoder(hidden, attention_mask=real(hidden.shape[1], lengths)).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        found = self.encoded(states, lengths, x, local, layers, out)
        found.extra["convolved"] = Tokens(features, found.tokens.layout, found.tokens.padding)
        return found

    def _positions(self) -> list[Any]:
        """data2vec's convolutions one after another for positions; other families have one, which
        transformers guards itself."""
        return list(getattr(self.model.encoder.pos_conv_embed, "layers", []))

    def _normalised(self, x: Sound) -> Tensor:
        if not self.normalise:
            return x.values
        there = real(x.values.shape[1], x.lengths)
        values = x.values - mean_real(x.values[..., None], x.lengths)
        values = values.masked_fill(~there, 0.0)
        spread = (values.square().sum(dim=1, keepdim=True) / x.lengths.clamp_min(1)[:, None] + 1e-7).sqrt()
        return values / spread

    def targets(self, x: Sound) -> Tokens:
        """``[B, N, T]``: MFCC or log-mel bands of the samples that a token looks at."""
        values, lengths = self.plain(x)
        return Tokens(values, self.layout(x), ~real(values.shape[1], lengths))

    @property
    def target_width(self) -> int:
        """39 or 80."""
        return self.plain.width

    def as_saved(self, options: Mapping[str, Any], spec: Any) -> tuple[dict[str, Any], Any]:
        """The configuration of loaded weights goes into ``config``."""
        kept, spec = super().as_saved(options, spec)
        if options.get("weights") is not None:
            kept["config"] = plain_config(self.model.config)
        return kept, spec

    def save_transformers(self, folder: str) -> None:
        """Writes a folder that transformers' ``from_pretrained`` reads."""
        self.model.save_pretrained(folder)

    def input_parameters(self) -> list[nn.Parameter]:
        """Of the convolutions."""
        return list(self.model.feature_extractor.parameters())


def _first(out: Any) -> Tensor:
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


def _loaded(model: Any, weights: str, family: str) -> Any:
    folder = Path(weights).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(f"encoder.weights: {weights} has no config.json; give a folder of save_pretrained")
    try:
        found, report = model.from_pretrained(str(folder), output_loading_info=True, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"encoder.weights: {weights} cannot be loaded ({str(error).splitlines()[0]})"
        ) from None
    missing = sorted(key for key in report["missing_keys"] if "masked_spec_embed" not in key)
    if missing:
        raise UserError(
            f"encoder.weights: {weights} lacks {len(missing)} weights of a {family} model (first: "
            f"{missing[0]}); set encoder.family to the one it is of"
        )
    return found


def _without_padding(layer: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Padding is 0 before each convolution. A function, and lengths at the layer, since copies keep both."""
    values, *rest = args
    there = real(values.shape[2], layer.lengths)[:, None]
    return (values.masked_fill(~there, 0.0), *rest)


def _real_norm(extractor: Any) -> None:
    """Puts a norm of real frames in place of the first convolution's group norm, where it has one."""
    first = extractor.conv_layers[0]
    old = getattr(first, "layer_norm", None)
    if not isinstance(old, nn.GroupNorm):
        return
    new = RealGroupNorm(old.num_groups, old.num_channels, old.eps, old.affine)
    new.load_state_dict(old.state_dict())
    first.layer_norm = new

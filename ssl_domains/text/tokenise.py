"""Tokenisers: trained on the train split, or read from a folder; kept as JSON in the spec."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.text.spec import TextSpec

NAMES = {
    "pad": ("[PAD]", "<pad>", "<|padding|>"),
    "mask": ("[MASK]", "<mask>"),
    "begin": ("[CLS]", "<s>", "<|startoftext|>"),
    "end": ("[SEP]", "</s>", "<|endoftext|>"),
}
"""What the special tokens are called by BERT, RoBERTa and CLIP."""
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = 1000
"""Different letters that a trained tokeniser knows, the most frequent ones."""
CHUNK = 20_000


def make_spec(tokeniser: str, texts: Iterable[str], size: int, lower: bool, length: int | None) -> TextSpec:
    """The spec of a set of texts.

    Args:
        tokeniser: ``wordpiece`` (BERT's), ``bpe`` (on bytes, as GPT-2's and CLIP's), or a folder (or file)
            that holds a ``tokenizer.json``.
        texts: of the train split.
        size: most different tokens of a trained one.
        lower: lower case without accents (a trained one).
        length: tokens of a text; None: what 99 of 100 train texts need, 8 to 128.

    Raises:
        DataError: the folder holds no tokeniser, or one without padding and mask tokens.
    """
    texts = list(texts) if not isinstance(texts, list) else texts
    made = _trained(tokeniser, texts, size, lower) if tokeniser in ("wordpiece", "bpe") else _read(tokeniser)
    made.no_padding()
    made.no_truncation()
    numbers = {key: _number(made, names) for key, names in NAMES.items()}
    for key in ("pad", "mask"):
        if numbers[key] < 0:
            raise DataError(
                f"data.tokeniser: {tokeniser} has no {key} token (known names: "
                f"{', '.join(NAMES[key])}); use a "
                "tokeniser of BERT's or RoBERTa's kind, or wordpiece"
            )
    if length is None:
        some = texts[:: max(len(texts) // 5000, 1)]
        counts = [len(found.ids) for found in made.encode_batch(some)]
        length = int(np.clip(np.ceil(np.quantile(counts, 0.99)), 8, 128)) if counts else 64
    return TextSpec(made.to_str(), made.get_vocab_size(), length, **numbers)


def _number(made: Any, names: Sequence[str]) -> int:
    found = [made.token_to_id(name) for name in names]
    return next((int(n) for n in found if n is not None), -1)


def _trained(kind: str, texts: list[str], size: int, lower: bool) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    steps = [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
    normalizer = normalizers.Sequence(steps if lower else [normalizers.NFC()])
    if kind == "wordpiece":
        cutter: Any = pre_tokenizers.BertPreTokenizer()
        decoder: Any = decoders.WordPiece()
        made = Tokenizer(models.WordPiece(_pieces(texts, size, normalizer, cutter), unk_token="[UNK]"))
    else:
        cutter, decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
        made = Tokenizer(models.BPE())
    made.normalizer, made.pre_tokenizer, made.decoder = normalizer, cutter, decoder
    if kind == "bpe":
        from tokenizers.trainers import BpeTrainer

        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator(
            texts,
            BpeTrainer(
                vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
            ),
        )
    made.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    ends = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


def _pieces(texts: list[str], size: int, normalizer: Any, cutter: Any) -> dict[str, int]:
    """A vocabulary of word pieces by BPE, the same in every run.

    The package's trainer numbers inner letters in the order of a hash map, and ties between pairs go by these
    numbers; so the most frequent letters are numbered here first, sorted, as if they were special.
    """
    from tokenizers import Tokenizer, models, trainers

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    letters = sorted(c for c, _ in counts.most_common(LETTERS) if not c.isspace())
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizer, cutter
    first = [*SPECIAL, *letters, *("##" + c for c in letters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(size, len(first)), special_tokens=first, limit_alphabet=LETTERS, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    found: dict[str, int] = made.get_vocab()
    return found


def _read(place: str) -> Any:
    from tokenizers import Tokenizer

    path = Path(place).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"data.tokeniser: {place} is no tokeniser; give wordpiece, bpe, or a folder with tokenizer.json"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises a bare Exception
        raise DataError(f"data.tokeniser: {file} cannot be read as a tokeniser ({error})") from None


def encode(spec: TextSpec, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Texts as token numbers, in chunks.

    Returns:
        ``values [m]`` int32 of all texts one after another, ``offsets [n + 1]`` int64, and how many texts
        were longer than ``spec.length`` and cut (the end token stays).
    """
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(spec.tokeniser)
    values: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    cut = 0
    for chunk in _chunks(texts):
        own: list[list[int]] = []
        for found in made.encode_batch(chunk):
            ids = found.ids
            if len(ids) > spec.length:
                cut += 1
                ids = ids[: spec.length - 1] + ids[-1:] if spec.end >= 0 else ids[: spec.length]
            own.append(ids)
        counts.append(np.array([len(ids) for ids in own], dtype=np.int64))
        values.append(np.fromiter(chain.from_iterable(own), dtype=np.int32, count=int(counts[-1].sum())))
    flat = np.concatenate(values) if values else np.empty(0, np.int32)
    lengths = np.concatenate(counts) if counts else np.empty(0, np.int64)
    return flat, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), cut


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    left = iter(texts)
    while chunk := list(islice(left, CHUNK)):
        yield chunk

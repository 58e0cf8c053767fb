"""The text domain: what a recipe's ``domain: text`` gets."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from ssl_domains.core.interfaces import Domain
from ssl_domains.core.registry import domain
from ssl_domains.text.data import TextSource, open_texts
from ssl_domains.text.readers import read
from ssl_domains.text.spec import TextSpec


@domain("text")
class TextDomain(Domain):
    """Captions, names, transcripts, documents: texts as tokens."""

    title: ClassVar[str] = "texts: a column of a CSV or Parquet file, a line or a .txt file a text"
    defaults: ClassVar[dict[str, str]] = {
        "encoder": "text_transformer",
        "views": "text_augment",
        "mask": "random",
    }

    def open(  # type: ignore[override]
        self,
        source: Any,
        column: str | None = None,
        label: str | None = None,
        *,
        tokeniser: str = "wordpiece",
        vocabulary: int = 8192,
        lower: bool = True,
        length: int | None = None,
        id: str | None = None,
        split: str | None = None,
        group: str | None = None,
        task: str | None = None,
        rare: int = 0,
        valid: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
    ) -> TextSource:
        """Opens texts; the tokeniser is trained on the train split.

        Args:
            source: .csv, .tsv, .parquet or .feather with a column of texts; .txt with a text a line; a folder
                of .txt files (subfolders are classes); ``python://topics``, ``python://docstrings/PACKAGE``;
                in Python also a list of texts or a DataFrame.
            column: that holds the texts; usual names (text, caption, title ...) are found.
            label: column that probes predict.
            tokeniser: ``wordpiece``, ``bpe``, or a folder with a ``tokenizer.json``.
            vocabulary: most different tokens of a trained tokeniser.
            lower: a trained tokeniser takes all in lower case, without accents.
            length: tokens of a text, more are cut; by default what 99 of 100 train texts need, at most 128.
            id: column of the user's own ids.
            split: column of train, valid, test.
            group: column; rows of one group stay on one side of a split.
            task: classification or regression; inferred when not given.
            rare: classes of fewer texts count as unknown.
            valid: share of validation texts.
            test: share of test texts.
            seed: of the split.
            limit: at most this many texts, evenly spaced.
            strict: refuse empty texts instead of leaving them out.

        Raises:
            DataError: one sentence with file, row or column, and what to do.
        """
        return open_texts(
            read(source, column, label, split, group, id),
            tokeniser=tokeniser, vocabulary=vocabulary, lower=lower, length=length, task=task, rare=rare,
            valid=valid, test=test, seed=seed, limit=limit, strict=strict,
        )  # fmt: skip

    def spec_from_dict(self, values: dict[str, Any]) -> TextSpec:
        """Reads a spec back."""
        return TextSpec.from_dict(values)

    def embed_source(  # type: ignore[override]
        self,
        spec: TextSpec,
        source: Any,
        column: str | None = None,
        label: str | None = None,
        *,
        id: str | None = None,
        split: str | None = None,
        group: str | None = None,
        task: str | None = None,
        rare: int = 0,
        valid: float = 0.0,
        test: float = 0.0,
        seed: int = 0,
        limit: int | None = None,
        strict: bool = False,
        **fitted: Any,
    ) -> TextSource:
        """New texts with a fitted tokeniser. Arguments as of :meth:`open`; those that the spec has settled
        are taken and ignored."""
        return open_texts(
            read(source, column, label, split, group, id), task=task, rare=rare, valid=valid, test=test,
            seed=seed, limit=limit, strict=strict, spec=spec,
        )  # fmt: skip

    def inspect(self, source: Any, **data: Any) -> tuple[dict[str, Any], str]:  # type: ignore[override]
        """The card, and the recipe lines that use the texts."""
        opened = self.open(source, **data)
        where = os.fspath(source) if isinstance(source, str | os.PathLike) else "texts.csv"
        lines = ["domain: text", "data:", f"  source: {where}"]
        lines += [f"  {key}: {value}" for key, value in data.items()]
        if "length" not in data:
            lines.append(f"  length: {opened.spec.length}   # as found")
        return opened.card(), "\n".join(lines) + "\n"

"""CrossModal: two or more towers, pulled together pair by pair."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_domains.core.batch import Batch, Output
from ssl_domains.core.collectives import gather_no_grad
from ssl_domains.core.interfaces import Encoder, Source, Views
from ssl_domains.core.methods.base import Method, Progress
from ssl_domains.core.objectives.base import Objective, Terms, mean_terms
from ssl_domains.core.parts.queue import Queue
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import method
from ssl_domains.crossmodal.caching import tower_features
from ssl_domains.crossmodal.data import PairSource
from ssl_domains.crossmodal.encoders import Towers

State = Literal["trained", "frozen", "cached"]


@method("cross_modal")
class CrossModal(Method):
    """Contrast (or triplets) between the towers of any two domains: CLIP, brain and speech, graph and text.

    Each pair of modalities gives one term: the objective on queries of the first and keys of the second
    (``objective: clip`` and ``symmetric`` ones take both directions). A tower is trained; or frozen; or
    cached:
    frozen, and its features are computed once for all items, kept on disk and mapped, so that neither its
    data
    nor its tower are touched while training (its projection is still trained). Parts of the recipe with a
    method of their own add that method's loss on their tower.

    Pairs that share an item (a picture with five captions, a class name that many pictures have) are told by
    their row numbers, and are not each other's negatives.

    Args:
        encoder: the towers.
        objective: on queries and keys ``[B, W]``.
        part_views: by part, views; the first one is what its tower sees.
        terms: by part, a method on its tower.
        towers: by part: ``trained`` (default), ``frozen`` or ``cached``.
        query: the part whose vectors are queries against each other part's keys; None: every pair of parts
            in the order of their names.
        same: pairs that share an item are ``positive`` (InfoNCE averages over them), or ``ignored``;
            ``negative``: they are not looked for (CLIP, and the brain decoder).
        weights: by part, weight of its own method; default 1.
        queue_size: keys of past batches that are further negatives of the queries: a pool of past targets
            (paper of
            the brain decoder: off by default), or a cross-batch memory (Wang et al., CVPR 2020) where the
            key's tower is trained. With a symmetric objective both sides have one. 0: none.
        soft: share of the target that goes to other pairs, by the likeness of their keys (SoftCLIP, Gao et
            al. 2023):
            ``(1 - soft) * own + soft * softmax(key likeness / soft_temperature)``. 0: hard targets.
        soft_temperature: of these.

    Raises:
        ValueError: a part that there is not, or options that exclude each other.
    """

    encoder: Towers

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        part_views: Mapping[str, Views] | None = None,
        terms: Mapping[str, Method] | None = None,
        towers: Mapping[str, State] | None = None,
        query: str | None = None,
        same: Literal["positive", "ignored", "negative"] = "positive",
        weights: Mapping[str, float] | None = None,
        queue_size: int = 0,
        soft: float = 0.0,
        soft_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, Towers):
            raise ValueError("method 'cross_modal' wants encoder: towers")
        self.encoder, self.objective = encoder, objective
        self.part_views = dict(part_views or {})
        self.terms = nn.ModuleDict(dict(terms or {}))
        names = encoder.names
        for key, given in (("towers", towers), ("weights", weights), ("query", {query: 0} if query else {})):
            for name in given or {}:
                if name not in names:
                    raise ValueError(
                        f"method.{key}: there is no part {name!r} (there are: {', '.join(names)})"
                    )
        self.state: dict[str, State] = {name: (towers or {}).get(name, "trained") for name in names}
        odd = {n: s for n, s in self.state.items() if s not in ("trained", "frozen", "cached")}
        if odd:
            raise ValueError(f"method.towers: {odd} must be trained, frozen or cached")
        for name in self.terms:
            if self.state[name] != "trained":
                raise ValueError(
                    f"method.towers.{name} is {self.state[name]}, so a method on it learns nothing"
                )
        for name in self.part_views:
            if self.state[name] == "cached":
                raise ValueError(
                    f"method.towers.{name} is cached, so it has no views; remove {name}.views or say frozen"
                )
        if same not in ("positive", "ignored", "negative"):
            raise ValueError(f"method.same must be positive, ignored or negative, got {same!r}")
        if not 0.0 <= soft < 1.0 or not soft_temperature > 0:
            raise ValueError("method.soft must lie in [0, 1) and method.soft_temperature be positive")
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in self.terms}
        self.same, self.soft, self.soft_temperature = same, soft, soft_temperature
        self.takes = set(inspect.signature(objective.forward).parameters)
        needs = {"soft_targets": soft > 0, "negatives": queue_size > 0, "positive_mask": same == "positive"}
        if same == "positive" and "positive_mask" not in self.takes:
            self.same = "ignored"  # a triplet has one positive
            needs["positive_mask"] = False
        lacking = [key for key, wanted in needs.items() if wanted and key not in self.takes]
        if lacking:
            raise ValueError(f"this objective takes no {', '.join(lacking)}; use info_nce or clip")
        first = [name for name in names if name != query]
        self.pairs = [(query, name) for name in first] if query else list(combinations(names, 2))
        if all(self.state[n] != "trained" for n in names) and not encoder.projected:
            raise ValueError("method.towers: no tower is trained and there is no projection; nothing learns")
        self.embedding_width = encoder.width
        # Each direction has its own past negatives, so the two are asked for one by one.
        self.both = bool(queue_size and getattr(objective, "symmetric", False))
        if self.both:
            objective.symmetric = False  # type: ignore[assignment]
        sides = {name for pair in self.pairs for name in (pair if self.both else pair[1:])}
        keys = sides if queue_size else set()
        columns = {"item": torch.int64}
        self.queues = nn.ModuleDict({key: Queue(queue_size, encoder.width, columns) for key in sorted(keys)})
        self._pending: list[tuple[str, Tensor, Tensor, Tensor]] = []
        self._shared = True  # whether any two pairs share an item; the source says
        for name, state in self.state.items():
            if state != "trained":
                encoder.part(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> CrossModal:
        """Frozen towers stay in eval mode."""
        super().train(mode)
        for name, state in self.state.items():
            if state != "trained":
                self.encoder.part(name).eval()
        return self

    def before_training(self, source: Source) -> None:
        """Prepares views, the parts' methods and what a tower fits on the train pairs, and computes or finds
        cached features."""
        assert isinstance(source, PairSource)
        self._shared = source.shares_items()
        for name, views in self.part_views.items():
            views.prepare(source.part(name))
        for name, term in self.terms.items():
            term.before_training(source.part(name))  # type: ignore[operator]
        train = source.splits["train"]
        for name, state in self.state.items():
            fit = getattr(self.encoder.part(name), "fit", None)
            if fit is not None:  # scales of targets
                rows = np.unique(source.links.rows[name][train])
                fit(source.parts[name], rows[rows >= 0])
            if state == "cached":
                source.replaced[name] = tower_features(self.encoder.part(name), source, name)

    def before_epoch(self, source: Source, epoch: int) -> None:
        """The parts' methods' own."""
        assert isinstance(source, PairSource)
        for name, term in self.terms.items():
            term.before_epoch(source.part(name), epoch)  # type: ignore[operator]

    def restarts(self) -> list[int]:
        """Those of the parts' methods; optimizer and schedule begin anew for all parts."""
        return sorted({epoch for term in self.terms.values() for epoch in term.restarts()})  # type: ignore[operator]

    def forward(self, batch: Batch, draw: Draw) -> Output:
        joint: dict[str, Tensor] = {}
        stages: dict[str, Tensor] = {}
        for name in self.encoder.names:
            pooled = self._pooled(name, batch, draw)
            joint[name] = self.encoder.project(name, pooled)
            first = not stages
            stages["encoder" if first else f"encoder_{name}"] = pooled.detach()
            stages["projector" if first else f"projector_{name}"] = joint[name].detach()
        pairs = [p for pair in self.pairs for p in ((pair, pair[::-1]) if self.both else (pair,))]
        terms = [self._term(query, key, joint, batch) for query, key in pairs]
        if self.training:  # once a key, however many pairs it is in
            rows = batch.meta["rows"]
            self._pending += [(key, joint[key].detach(), batch.index, rows[key]) for key in self.queues]
        whole = mean_terms(terms)
        loss, parts, trivial = whole.total, dict(whole.parts), whole.trivial
        if self.terms:
            parts["between"] = loss.detach()
            trivial = {}
        for name, term in self.terms.items():
            inner = Batch(batch.x[name], batch.index, None, batch.meta.get("part", {}).get(name, {}))
            out = term(inner, draw.fork(f"term {name}"))
            loss = loss + self.weights[name] * out.loss
            parts[f"within_{name}"] = out.loss.detach()
        return Output(loss, parts, stages, trivial)

    def _pooled(self, name: str, batch: Batch, draw: Draw) -> Tensor:
        """``[B, D]`` of a tower."""
        x = batch.x[name]
        if (
            self.state[name] == "cached"
            and isinstance(x, Tensor)
            and "part" in batch.meta
            and name not in batch.meta["part"]
        ):
            return x.float()
        if name in self.part_views:
            inner = Batch(x, batch.index, None, batch.meta.get("part", {}).get(name, {}))
            x = self.part_views[name](inner, draw.fork(f"views {name}"))[0].x
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.state[name] == "trained"):
            pooled: Tensor = self.encoder.part(name)(x).pooled
        return pooled

    def _term(self, query: str, key: str, joint: Mapping[str, Tensor], batch: Batch) -> Terms:
        """The objective on one pair of modalities."""
        q, k = joint[query], joint[key]
        items = {name: batch.meta["rows"][name] for name in (query, key)}
        options = self._masks(query, key, items, batch, k)
        if key in self.queues:
            queue: Any = self.queues[key]
            options["negatives"] = queue.keys.clone()
            own = queue.column("item")[None, :] == items[key][:, None]
            # Never written, or what stood for a missing partner.
            own = own | ((queue.index < 0) | (queue.column("item") < 0))[None, :]
            options["ignore_mask"] = self._with_queue(options.get("ignore_mask"), own, q)
        return self.objective(q, k, **options)  # type: ignore[no-any-return]

    def _with_queue(self, ignore: Tensor | None, own: Tensor, q: Tensor) -> Tensor:
        """Ignored pairs of the batch and of the queue."""
        columns = len(gather_no_grad(q[:, :1])) if getattr(self.objective, "gather", True) else len(q)
        if ignore is None:
            ignore = torch.zeros(len(q), columns, dtype=torch.bool, device=q.device)
        return torch.cat([ignore, own], dim=1)

    def _masks(
        self, query: str, key: str, items: Mapping[str, Tensor], batch: Batch, k: Tensor
    ) -> dict[str, Tensor]:
        """Which pairs of the batch are the same, and which have no partner."""
        gathers = getattr(self.objective, "gather", True)
        gather = gather_no_grad if gathers else (lambda x: x)
        every = {name: gather(rows) for name, rows in items.items()}
        options: dict[str, Tensor] = {}
        alike = None
        if self.same != "negative" and self._shared:
            alike = (items[query][:, None] == every[query][None]) | (items[key][:, None] == every[key][None])
        if self.soft:
            options["soft_targets"] = self._soft(k, gather(k.detach()), gather(batch.index), batch.index)
        elif self.same == "positive" and alike is not None:
            options["positive_mask"] = alike
        elif self.same == "ignored" and alike is not None:
            itself = gather(batch.index)[None] == batch.index[:, None]
            options["ignore_mask"] = alike & ~itself
        if "present" in batch.meta:
            there = batch.meta["present"][query] & batch.meta["present"][key]
            absent = ~(there[:, None] & gather(there)[None])
            options["ignore_mask"] = options.get("ignore_mask", torch.zeros_like(absent)) | absent
            if "positive_mask" in options:
                options["positive_mask"] = options["positive_mask"] & ~absent
            if "query_weights" in self.takes:
                options["query_weights"] = there.to(k.dtype)
        return options

    @torch.no_grad()
    def _soft(self, k: Tensor, every: Tensor, index: Tensor, own: Tensor) -> Tensor:
        """``[B, G]`` targets."""
        likeness = F.normalize(k.detach().float(), dim=1) @ F.normalize(every.float(), dim=1).T
        itself = (index[None] == own[:, None]).to(likeness.dtype)
        itself = itself / itself.sum(1, keepdim=True).clamp(min=1)
        return (1 - self.soft) * itself + self.soft * (likeness / self.soft_temperature).softmax(1)

    def after_step(self, progress: Progress) -> None:
        super().after_step(progress)
        for term in self.terms.values():
            term.after_step(progress)  # type: ignore[operator]
        for key, values, index, items in self._pending:
            self.queues[key].push(values, index, item=items)  # type: ignore[operator]
        self._pending.clear()

    def check(self, *, batch_size: int, n_samples: int | None) -> list[str]:
        """The objective's, and the parts' methods'."""
        found = self.objective.check(
            batch_size=batch_size, width=self.embedding_width, views=2, n_samples=n_samples
        )
        for name, term in self.terms.items():
            said = term.check(batch_size=batch_size, n_samples=n_samples)  # type: ignore[operator]
            found += [f"{name}: {text}" for text in said]
        if self.queues and any(self.state[key] == "trained" for key in self.queues) and batch_size < 2:
            found.append("A queue of a trained tower's keys wants a batch of at least two.")
        return found

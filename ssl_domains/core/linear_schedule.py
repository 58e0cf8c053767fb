"""Linear warm-up and linear decay."""

from __future__ import annotations

from ssl_domains.core.registry import schedule
from ssl_domains.core.schedules import WarmupCosine


@schedule("warmup_linear")
class WarmupLinear(WarmupCosine):
    """Linear warm-up, then a straight line down to ``final_ratio`` at ``total_steps`` (BERT, TERA, HuBERT).

    Arguments as of :class:`~ssl_domains.core.schedules.WarmupCosine`.
    """

    def multiplier(self, step: int) -> float:
        if step < self.warmup_steps:
            return step / self.warmup_steps
        left = max(self.total - step, 0) / max(self.total - self.warmup_steps, 1)
        return self.final_ratio + (1.0 - self.final_ratio) * left

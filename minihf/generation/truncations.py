"""Processors that shape the distribution to draw from: they only matter when sampling.

Each leaves at least `keep` tokens: a beam search needs one beside the end tokens, to go on with.
"""

import numpy as np
import torch
from torch import Tensor

from minihf.generation import Processor
from minihf.generation.config import GenerationConfig

TOP_H_CANDIDATES = 100  # top-h looks at so many tokens at the most, in the reference


def truncations(config: GenerationConfig, keep: int = 1) -> list[Processor]:
    """Those that the settings ask for, in the reference's order."""
    made = []
    if config.temperature not in (None, 1):
        made.append(temperature(float(config.temperature)))
    if config.top_h is not None:
        made.append(top_h(config.top_h))
    if config.top_k:
        made.append(top_k(config.top_k, keep))
    if config.top_p is not None and config.top_p < 1:
        made.append(top_p(config.top_p, keep))
    if config.min_p is not None:
        made.append(min_p(config.min_p, keep))
    if config.typical_p is not None and config.typical_p < 1:
        made.append(typical_p(config.typical_p, keep))
    if config.epsilon_cutoff:
        made.append(epsilon_cutoff(config.epsilon_cutoff, keep))
    if config.eta_cutoff:
        made.append(eta_cutoff(config.eta_cutoff, keep))
    return made


def temperature(t: float) -> Processor:
    return lambda ids, logits: logits / t


def top_k(k: int, keep: int = 1) -> Processor:
    """Only the k most probable tokens (arXiv 1805.04833); those that tie with the k-th stay too."""
    return lambda ids, logits: logits.masked_fill(below(logits, max(k, keep)), -torch.inf)


def top_p(p: float, keep: int = 1) -> Processor:
    """The nucleus (arXiv 1904.09751): the fewest tokens that hold p of the probability."""

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        ascending, order = logits.sort()
        out = ascending.softmax(-1).cumsum(-1) <= 1 - p
        out[:, -keep:] = False
        return logits.masked_fill(out.scatter(-1, order, out), -torch.inf)

    return process


def min_p(p: float, keep: int = 1) -> Processor:
    """Tokens at least p times as probable as the most probable one (arXiv 2407.01082)."""

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        probabilities = logits.softmax(-1)
        out = probabilities < p * probabilities.amax(-1, keepdim=True)
        best = probabilities.topk(min(keep, logits.shape[-1])).indices
        return logits.masked_fill(out.scatter(-1, best, False), -torch.inf)

    return process


def top_h(share: float) -> Processor:
    """The most probable tokens whose summed −p·log p is up to a share of the entropy (arXiv 2509.02510)."""

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        best, tokens = logits.topk(min(TOP_H_CANDIDATES, logits.shape[-1]))
        p, entropy = distribution(best)
        stay = (-p * p.log()).cumsum(-1) <= entropy * share
        stay[:, 0] = True
        out = torch.ones_like(logits, dtype=torch.bool).scatter(-1, tokens, ~stay)
        return logits.masked_fill(out, -torch.inf)

    return process


def typical_p(mass: float, keep: int = 1) -> Processor:
    """The fewest tokens that hold this mass, those first whose −log p is nearest the entropy (arXiv 2202.00666)."""

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        entropy = -(log_p * log_p.exp()).nansum(-1, keepdim=True)
        distance, order = (-log_p - entropy).abs().sort()
        reached = logits.gather(-1, order).softmax(-1).cumsum(-1) < mass
        last = reached.sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)  # (B, 1)
        out = distance > distance.gather(-1, last)
        out[:, :keep] = False
        return logits.masked_fill(out.scatter(-1, order, out), -torch.inf)

    return process


def epsilon_cutoff(epsilon: float, keep: int = 1) -> Processor:
    """Tokens at least this probable (arXiv 2210.15191)."""
    return lambda ids, logits: logits.masked_fill((logits.softmax(-1) < epsilon) & below(logits, keep), -torch.inf)


def eta_cutoff(epsilon: float, keep: int = 1) -> Processor:
    """Tokens at least as probable as epsilon, or √epsilon · exp(−entropy), the lower one (arXiv 2210.15191)."""
    epsilon = torch.tensor(epsilon).item()  # as float32 has it
    root = torch.tensor(epsilon).sqrt().item()

    def process(ids: Tensor, logits: Tensor) -> Tensor:
        eta = (root * (-distribution(logits)[1]).exp()).clamp(max=epsilon)  # (B, 1)
        return logits.masked_fill((logits.softmax(-1) < eta) & below(logits, keep), -torch.inf)

    return process


def below(logits: Tensor, k: int) -> Tensor:
    """Which are lower than the k-th highest of their row."""
    return logits < highest(logits, min(k, logits.shape[-1]))


def highest(x: Tensor, k: int) -> Tensor:
    """(B, V) -> (B, 1), the k-th highest number of each row.

    NumPy parts a row with vector instructions: for the 50th of 2048 on a CPU it takes a fourth to a ninth of `topk`'s
    time, of 50257 about as long.
    """
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if type(x) is Tensor and x.is_cpu and x.dtype in (torch.float32, torch.float64) and not recorded:
        return torch.from_numpy(np.partition(x.detach().numpy(), -k, axis=-1)[:, -k, None])
    return x.topk(k).values[:, -1:]


def distribution(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (B, V), and their entropy (B, 1): the arithmetic of `torch.distributions.Categorical`."""
    logits = logits - logits.logsumexp(-1, keepdim=True)
    p = logits.softmax(-1)
    return p, -(logits.clamp(min=torch.finfo(logits.dtype).min) * p).sum(-1, keepdim=True)

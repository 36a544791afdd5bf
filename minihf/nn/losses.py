"""The losses of the heads: pure functions of logits and labels.

Each returns None where labels are None, so that a head's forward is one line with or without them. A label of -100 is
left out. Cross-entropies take half-precision logits up to float32 first: a sum over a vocabulary needs the digits.

The language-model losses divide by `num_items_in_batch` where it is given: the number of labels in *all* micro-batches
of one optimizer step. A mean over each micro-batch would weigh a label in a short one more than a label in a long one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


def cross_entropy(
    logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
) -> Tensor | None:
    """-log p(label), averaged over the labels that count.

    Args:
        logits: (..., V).
        labels: class indices (...), or None.
        num_items_in_batch: divide the sum by this instead of by the number of labels.
    """
    if labels is None:
        return None
    check_labels(logits.shape[:-1], labels)
    logits, labels = upcast(logits).flatten(0, -2), labels.flatten().to(logits.device, torch.long)
    reduction = "mean" if num_items_in_batch is None else "sum"
    try:
        total = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction=reduction)
    except IndexError as error:  # on the CPU; a GPU stops at an assertion of its own
        most = logits.shape[-1] - 1
        raise IndexError(f"{error} Labels are 0 to {most}, or {IGNORED}: is num_labels right?") from error
    return total if num_items_in_batch is None else total / num_items_in_batch


def causal_lm_loss(
    logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
) -> Tensor | None:
    """The logits of a token predict the next one: logits (B, T, V), labels (B, T) not shifted by the caller."""
    return cross_entropy(logits, next_tokens(labels), num_items_in_batch)


def next_tokens(labels: Tensor | None) -> Tensor | None:
    """The label of each token's successor, (..., T); the last has none.

    So the labels move, not the logits: a slice of the logits would copy B * T * V numbers.
    """
    return labels if labels is None else F.pad(labels, (0, 1), value=IGNORED)[..., 1:]


def counted(labels: Tensor) -> Tensor:
    """The places of the labels that count, in one row: (...) -> (N,). A GPU is asked once how many these are, and by an
    index with a mask each time."""
    return labels.flatten().ne(IGNORED).nonzero().squeeze(1)


def keytoken_weighted_loss(inputs: Tensor, logits: Tensor, keytoken_ids: list[int], alpha: float = 1.0) -> Tensor:
    """A causal language model's loss in which a text weighs more, the more key tokens it has.

    Each text's loss is the mean over its tokens, and weighs alpha * (1 + how often key tokens occur in it); these are
    averaged. From the course, "Training a causal language model from scratch".

    Args:
        inputs: ids (B, T).
        logits: (B, T, V).
        keytoken_ids: the ids to look for.
    """
    B, T = inputs.shape
    losses = F.cross_entropy(
        upcast(logits).flatten(0, 1), next_tokens(inputs).flatten(), ignore_index=IGNORED, reduction="none"
    )
    losses = losses.view(B, T).sum(1) / (T - 1)  # the last token's is 0
    occurrences = sum(((inputs == token).sum(1) for token in keytoken_ids), inputs.new_zeros(B))
    return alpha * ((1 + occurrences) * losses).mean()


def classification_loss(logits: Tensor, labels: Tensor | None, problem_type: str | None = None) -> Tensor | None:
    """The loss of a sequence classification head.

    Args:
        logits: (B, N).
        labels: (B,) class indices; (B, N) or (B,) floats for a regression; (B, N) floats 0..1 for several labels each.
        problem_type: "regression" (mean squared error), "single_label_classification" (cross-entropy) or
            "multi_label_classification" (a binary cross-entropy each). None: a regression where N is 1, else one label
            where labels are integers, else several.
    """
    if labels is None:
        return None
    labels = labels.to(logits.device)
    if problem_type is None:
        single = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem_type = "regression" if logits.shape[-1] == 1 else single
    if problem_type == "single_label_classification":
        return cross_entropy(logits, labels)
    if problem_type not in PROBLEM_TYPES:
        known = ", ".join(map(repr, PROBLEM_TYPES))
        raise ValueError(f"problem_type {problem_type!r} is not known: choose one of {known}, or leave it out")
    if labels.shape != logits.shape and not (logits.shape[-1] == 1 and labels.numel() == logits.numel()):
        raise ValueError(
            f"{problem_type} needs a label for each logit: logits {tuple(logits.shape)}, labels {tuple(labels.shape)}"
        )
    if problem_type == "regression":
        return F.mse_loss(logits.view(labels.shape), labels.to(logits.dtype))
    return F.binary_cross_entropy_with_logits(logits, labels.view(logits.shape).to(logits.dtype))


def span_loss(start: Tensor, end: Tensor, start_positions: Tensor | None, end_positions: Tensor | None):
    """The loss of a question answering head: logits (B, T) and positions (B,) of the first and the last token.

    A position outside the text, an answer that truncation cut off, counts for nothing. Without both positions: None.
    """
    if start_positions is None or end_positions is None:
        return None
    tokens = start.shape[-1]
    for name, places in (("start_positions", start_positions), ("end_positions", end_positions)):
        if places.numel() != len(start):
            raise ValueError(f"{name} has shape {tuple(places.shape)}, expected one for each text, ({len(start)},)")
    firsts, lasts = (p.view(-1).to(start.device, torch.long).clamp(0, tokens) for p in (start_positions, end_positions))
    losses = [F.cross_entropy(upcast(x), p, ignore_index=tokens) for x, p in ((start, firsts), (end, lasts))]
    return (losses[0] + losses[1]) / 2


def replaced_token_loss(logits: Tensor, labels: Tensor | None, attention_mask: Tensor | None = None) -> Tensor | None:
    """ELECTRA's: was each token replaced by another? A binary cross-entropy, averaged over the real tokens.

    Args:
        logits, labels: (B, T); labels are 1 where a token was replaced, 0 where not.
        attention_mask: 1 = real, (B, T); None: all are.
    """
    if labels is None:
        return None
    if labels.shape != logits.shape:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, expected one for each token {tuple(logits.shape)}")
    labels = labels.to(logits.device)
    scored = labels != IGNORED
    if attention_mask is not None:
        scored = scored & (attention_mask.to(logits.device) == 1)
    logits = upcast(logits)[scored]
    return F.binary_cross_entropy_with_logits(logits, labels[scored].to(logits.dtype))


def load_balancing_loss(router_logits: tuple[Tensor, ...], k: int, attention_mask: Tensor | None = None) -> Tensor:
    """How unevenly the experts are used: k, where all are asked equally often, up to their number, where k alone are.

    The sum over experts of f * p, times their number: f is how often it is asked, a token, p the mean of its
    probability, both over all real tokens of all layers. Only p has a gradient: what is asked too often becomes less
    probable.

    Args:
        router_logits: of each layer (B * T, E).
        k: how many experts a token is sent to.
        attention_mask: 1 = real, (B, T); None: all are.
    """
    logits = torch.stack(router_logits)  # (layers, B * T, E)
    layers, tokens, E = logits.shape
    real = torch.ones(tokens, device=logits.device) if attention_mask is None else attention_mask.flatten()
    probabilities = logits.softmax(-1)
    asked = F.one_hot(probabilities.topk(k, -1).indices, E).sum(-2)  # (layers, B * T, k, E) -> (layers, B * T, E)
    real = real.to(logits.device, torch.promote_types(logits.dtype, torch.float32))[:, None]  # (B * T, 1)
    total = layers * real.sum()
    often, probable = ((x * real).sum((0, 1)) / total for x in (asked, probabilities))  # (E,), (E,)
    return E * (often * probable).sum()


def check_labels(places: torch.Size, labels: Tensor) -> None:
    """One label for each place, (...); a column (N, 1) is fine for (N,)."""
    if labels.numel() != places.numel() or (labels.dim() == len(places) and labels.shape != places):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, expected one for each of the logits {tuple(places)}"
        )


def upcast(x: Tensor) -> Tensor:
    """To float32 from less; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

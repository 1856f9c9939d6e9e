"""The loss of direct preference optimisation as one pure function (Rafailov et al., arXiv 2305.18290)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class DpoTerms:
    """`loss` is a number; everything else has one value for each pair, shape (pairs,)."""

    loss: torch.Tensor
    chosen_rewards: torch.Tensor
    rejected_rewards: torch.Tensor

    @property
    def margins(self) -> torch.Tensor:
        """By how much the chosen answer's reward exceeds the rejected one's: the argument of sigma in equation 7."""
        return self.chosen_rewards - self.rejected_rewards

    @property
    def weights(self) -> torch.Tensor:
        """How hard each pair pulls: sigma(-margin), the factor in the gradient below equation 7."""
        return torch.sigmoid(-self.margins)


def dpo_loss(
    policy_chosen: torch.Tensor,
    policy_rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float = 0.1,
) -> DpoTerms:
    """Equation 7 of the paper, averaged over the pairs.

    Each argument has the shape (pairs,): the log-probability (nats) of a whole answer, its prompt given, under the
    model in training (policy) or the frozen model it started from (reference).
    """
    # Equation 5, the reward that a policy implies, up to a term of the prompt alone that cancels in equation 6.
    chosen_rewards = beta * (policy_chosen - reference_chosen)
    rejected_rewards = beta * (policy_rejected - reference_rejected)
    # Equation 7: how likely equation 6 (Bradley and Terry) makes the order that people chose.
    loss = -F.logsigmoid(chosen_rewards - rejected_rewards).mean()
    return DpoTerms(loss, chosen_rewards.detach(), rejected_rewards.detach())

"""Depth pruning: learn which residual blocks of a network to leave out, leave them out, and fine-tune the rest.

    blocks = stack(network, "transformer_blocks")            # or prunable_resnets(network, x, time) of a UNet
    task = Task(denoiser, draw, even_levels(denoiser.process))
    decision = learn(task, blocks, consecutive(len(blocks), size=2, keep=1), steps=500)
    pruned = recover(task, prune(network, blocks, decision.kept, x, time), steps=5000)
    save_pruned("small.safetensors", pruned, source=network)
    sample(denoiser.with_network(pruned.network), x, grid, solver)

After TinyFusion (Fang et al., CVPR 2025). Fewer plain steps of the whole network are the rival to beat.
"""

from shared.pruning.artefact import load_pruned, save_pruned
from shared.pruning.gates import Gates, gated
from shared.pruning.groups import Group, best_scores, consecutive, random_choice
from shared.pruning.heuristics import block_influence, magnitude
from shared.pruning.learning import Decision, learn
from shared.pruning.low_rank import LowRank, add_low_rank, merge_low_rank
from shared.pruning.recovery import masked_feature_loss, recover, without_outliers
from shared.pruning.surgery import Cut, PassOn, Pruned, prunable, prunable_resnets, prune
from shared.pruning.task import Task, even_levels, log_normal_levels

__all__ = [
    "Cut",
    "Decision",
    "Gates",
    "Group",
    "LowRank",
    "PassOn",
    "Pruned",
    "Task",
    "add_low_rank",
    "best_scores",
    "block_influence",
    "consecutive",
    "even_levels",
    "gated",
    "learn",
    "load_pruned",
    "log_normal_levels",
    "magnitude",
    "masked_feature_loss",
    "merge_low_rank",
    "prunable",
    "prunable_resnets",
    "prune",
    "random_choice",
    "recover",
    "save_pruned",
    "without_outliers",
]  # fmt: skip

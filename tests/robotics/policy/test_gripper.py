"""A synthetic gripper of two modes: open until the flip, closed from it on, and no earlier plan knew.

The policy's law at every tick is exact: a smooth action, and a gripper that is +v with probability p and -v else, each
entry by itself. p is the observation's; a plan made before the flip says -v, and the next sampling starts from it.
"""

import pytest
import torch
from torch import nn

from robotics.policy.config import ActionConfig, DiscreteAction, MlpConfig, ObservationField, PolicyConfig
from robotics.policy.policy import Policy
from robotics.policy.rolling import RollingPolicy
from robotics.policy.warmstart import WarmStart
from tests.robotics.policy.gaussian import identity

FLIP, SURE, STD, WORLDS = 8, 0.999, 0.1, 400


class TwoModes(nn.Module):
    def __init__(self, process, value: float) -> None:
        super().__init__()
        self.process, self.value = process, value

    @staticmethod
    def conditioning(observations):
        return {"ticks": observations[:, -1, 0]}

    def forward(self, sample, timestep, *, ticks):
        t = (timestep.double() + 1) / self.process.steps
        alpha, sigma = (value.float()[:, None] for value in (self.process.alpha(t), self.process.sigma(t)))
        moving, gripper = sample.unbind(-1)
        odds = torch.where(ticks >= FLIP, 1.0, -1.0)[:, None] * torch.logit(torch.tensor(SURE))
        x0 = self.value * torch.tanh(alpha * self.value * gripper / sigma**2 + odds / 2)
        smooth = sigma * moving / (alpha**2 * STD**2 + sigma**2)
        return torch.stack([smooth, (gripper - alpha * x0) / sigma], dim=-1)


def gripper_policy(rule: str | None) -> Policy:
    """Return the policy; "scale" is trained on values divided by ten, None has no rule at all."""
    discrete = () if rule is None else (DiscreteAction(index=1, rule=rule, factor=10.0),)
    config = PolicyConfig(
        observation=(ObservationField(name="tick", size=1),),
        action=ActionConfig(size=2, discrete=discrete),
        clip=None,
        network=MlpConfig(),
    )
    value = 0.1 if rule == "scale" else 1.0
    return Policy(config, TwoModes(config.noise.process(), value), identity(1), identity(2))  # type: ignore[arg-type]


def closed(rule: str | None, levels: tuple[int, ...]) -> list[float]:
    """Return the share of worlds that command +1 at each tick from the one before the flip on."""
    rolling = RollingPolicy(gripper_policy(rule), warm=WarmStart(levels=levels), environments=WORLDS)
    generator, shares = torch.Generator().manual_seed(0), []
    for tick in range(FLIP - 3, FLIP + 4):
        seen = torch.tensor([tick - 1.0, tick])[None, :, None].expand(WORLDS, -1, -1)
        chunk = rolling.act(seen, generator=generator).chunk
        shares.append(float((chunk.executable[:, 0, 1] > 0).float().mean()))
    return shares[2:]


def test_cold_start_follows_the_flip_at_once():
    rolling = RollingPolicy(gripper_policy(None), warm=WarmStart(mode="cold"), environments=WORLDS)
    seen = torch.tensor([FLIP - 1.0, FLIP])[None, :, None].expand(WORLDS, -1, -1)
    assert float((rolling.act(seen).chunk.executable[:, 0, 1] > 0).float().mean()) > 0.98


def test_naive_warm_start_misses_the_flip_and_clip_and_scale_do_not():
    levels = (20, 10, 4, 0)
    naive, clip, scale = (closed(rule, levels) for rule in (None, "clip", "scale"))
    assert max(naive[0], scale[0]) < 0.02  # before the flip all are open
    assert 0.02 < clip[0] < 0.15  # but a guess drawn towards 0 also moves now and then where it should not
    assert max(naive[1:]) < 0.2  # three ticks later hardly a gripper has moved
    assert scale[1] > 0.98
    assert min(clip[1:]) > 0.75
    assert clip[-1] > 0.9


def test_naive_warm_start_needs_the_noise_that_hides_a_full_flip():
    # A flip is a jump of 2: sigma / alpha > 2 first holds at entry 71 of this table.
    assert closed(None, (71, 40, 20, 10, 4, 0))[1] > 0.9


@pytest.mark.parametrize(("rule", "value"), [("clip", 1.0), ("scale", 1.0), (None, None)])
def test_commands_are_the_two_values_only_where_the_action_is_declared_discrete(rule, value):
    chunk = gripper_policy(rule).chunk(torch.tensor([[[0.3, 0.04], [0.2, -0.02]]]).repeat(1, 8, 1))
    gripper = chunk.actions[0, :2, 1].tolist()
    assert gripper == ([value, -value] if value else pytest.approx([0.04, -0.02]))

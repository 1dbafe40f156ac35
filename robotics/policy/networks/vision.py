r"""Images to a few numbers: a ResNet-18 with group normalisation, then where its features are, or how large.

    block(x)         = relu(GN(conv(relu(GN(conv(x))))) + x)         x through GN(conv_1x1(x)) where the shape changes
    spatial softmax  p_k = sum_ij softmax_ij(f_k) (x_j, y_i),  f = conv_1x1(features),  x and y from -1 to 1
    encoder          relu(W [p_1 ... p_K] + b),  or the mean of each channel

Groups have 16 channels. In training each image is cropped somewhere else, in evaluation in its centre.

Names and shapes of the weights, and the outputs, are those of `DiffusionRgbEncoder` of LeRobot;
`robotics.policy.official` maps those of robomimic's `VisualCore`, which Diffusion Policy trains.

References:
    He et al., Deep Residual Learning, CVPR 2016; Finn et al., Deep Spatial Autoencoders, ICRA 2016 (spatial softmax).
    Chi et al., Diffusion Policy, RSS 2023, section III-B (group normalisation, because weights are averaged).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robotics.policy.config import ImageField, PolicyConfig, VisionConfig
from robotics.policy.networks.mlp import ConditionalMLP
from robotics.policy.networks.transformer import TransformerForDiffusion
from robotics.policy.networks.unet import ConditionalUnet1D

GROUP = 16  # channels that are normalised together
STAGES = 4


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // GROUP, channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the first convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = _norm(outputs)  # the published name, of what was a batch normalisation
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = _norm(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(outputs))
            if stride > 1 or inputs != outputs
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H / stride, W / stride)."""
        h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(h + self.downsample(x))


def resnet18(channels: int, width: int = 64) -> nn.Sequential:
    """Return the ResNet-18 up to its feature map (N, 8 width, H / 32, W / 32); halves are rounded up."""
    widths = [width * 2**stage for stage in range(STAGES)]
    stages = [
        nn.Sequential(BasicBlock(inputs, outputs, 1 if stage == 0 else 2), BasicBlock(outputs, outputs, 1))
        for stage, (inputs, outputs) in enumerate(zip([width, *widths[:-1]], widths, strict=True))
    ]
    first = nn.Conv2d(channels, width, 7, 2, padding=3, bias=False)
    network = nn.Sequential(first, _norm(width), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1), *stages)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


class SpatialSoftmax(nn.Module):
    """The K expected places of the module docstring.

    Args:
        channels: of the features.
        height: of the feature map.
        width: of the feature map.
        keypoints: K.
    """

    pos_grid: Tensor

    def __init__(self, channels: int, height: int, width: int, keypoints: int) -> None:
        super().__init__()
        self.nets = nn.Conv2d(channels, keypoints, 1)
        self.register_buffer("pos_grid", place_grid(height, width))

    def forward(self, features: Tensor) -> Tensor:
        """Return the places (N, K, 2), x then y in [-1, 1], of features (N, channels, H, W)."""
        return self.nets(features).flatten(2).softmax(dim=2) @ self.pos_grid


def place_grid(height: int, width: int) -> Tensor:
    """Return the place of each entry of a map, row by row, (H W, 2): x then y in [-1, 1]."""
    x, y = torch.linspace(-1, 1, width, dtype=torch.float64), torch.linspace(-1, 1, height, dtype=torch.float64)
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1).float()


def cropped(images: Tensor, size: tuple[int, int], *, random: bool) -> Tensor:
    """Return the centres of images (N, C, H, W), or a part drawn by torch's global generator for each image."""
    height, width = size
    top, left = images.shape[2] - height, images.shape[3] - width
    if not random:
        # Half a pixel is rounded to the even one, as torchvision does it.
        y, x = round(top / 2), round(left / 2)
        return images[:, :, y : y + height, x : x + width]
    count, device = len(images), images.device
    rows = torch.randint(top + 1, (count,), device=device)[:, None] + torch.arange(height, device=device)
    columns = torch.randint(left + 1, (count,), device=device)[:, None] + torch.arange(width, device=device)
    return images[torch.arange(count, device=device)[:, None, None], :, rows[:, :, None], columns[:, None]].movedim(
        3, 1
    )


class ImageEncoder(nn.Module):
    """The encoder of one camera, or of all.

    Args:
        shape: channels, height and width of the images.
        vision: its sizes.
    """

    def __init__(self, shape: tuple[int, int, int], vision: VisionConfig) -> None:
        super().__init__()
        self.crop = vision.crop
        height, width = (-(-size // 2 ** (STAGES + 1)) for size in vision.crop or shape[1:])
        self.backbone = resnet18(shape[0], vision.width)
        self.pool: nn.Module
        self.out: nn.Module
        if vision.pool == "spatial_softmax":
            self.pool = SpatialSoftmax(8 * vision.width, height, width, vision.keypoints)
            self.out = nn.Linear(vision.features, vision.features)
        else:
            self.pool, self.out = nn.AdaptiveAvgPool2d(1), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (N, F) of normalised images (N, C, H, W)."""
        if self.crop is not None:
            images = cropped(images, self.crop, random=self.training)
        return self.out(self.pool(self.backbone(images)).flatten(1)).relu()


class VisualNetwork(nn.Module):
    """A network that is told the features of images in the place of their pixels.

    Args:
        model: a network of numbers, for observations of `config.condition_size` numbers.
        config: of the policy.
    """

    def __init__(
        self, model: ConditionalUnet1D | TransformerForDiffusion | ConditionalMLP, config: PolicyConfig
    ) -> None:
        super().__init__()
        self.model = model
        self.fields = config.observation
        self.separate = config.vision.separate
        self.rgb_encoder: nn.Module
        if self.separate:
            self.rgb_encoder = nn.ModuleList(ImageEncoder(field.shape, config.vision) for field in config.images)
        else:
            self.rgb_encoder = ImageEncoder(config.images[0].shape, config.vision)

    def conditioning(self, observations: Tensor) -> dict[str, Tensor]:
        """Return the model's keyword arguments for normalised observations (N, T_o, D_o), pixels among them."""
        parts, camera = [], 0
        for field, part in zip(self.fields, observations.split([field.size for field in self.fields], -1), strict=True):
            if isinstance(field, ImageField):
                encoder = self.rgb_encoder[camera] if isinstance(self.rgb_encoder, nn.ModuleList) else self.rgb_encoder
                camera += 1
                part = encoder(part.reshape(-1, *field.shape)).unflatten(0, observations.shape[:2])
            parts.append(part)
        return self.model.conditioning(torch.cat(parts, dim=-1))

    def forward(self, sample: Tensor, timestep: Tensor | float, **told: Tensor) -> Tensor:
        """Return the model's prediction (N, T, A)."""
        return self.model(sample, timestep, **told)

"""A policy as data: one mapping describes it completely, in a YAML file or beside its weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from shared.process import TableVP, VariancePreserving, squared_cosine_betas

Share = Annotated[float, Field(ge=0, lt=1)]
Index = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """A frozen model in which a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UnetConfig(Settings):
    """The 1-D U-Net; the defaults are those of the published low-dimensional Push-T policy.

    Attributes:
        kind: "unet".
        widths: channels of each level, finest first; the time axis halves between levels.
        kernel: of the convolutions, odd.
        groups: of the group normalisations.
        step_embedding: size of the embedding of the noise step, even.
        scale: the condition gives a scale and a shift; False gives a shift only.
    """

    kind: Literal["unet"] = "unet"
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (256, 512, 1024)
    kernel: PositiveInt = 5
    groups: PositiveInt = 8
    step_embedding: Annotated[int, Field(ge=4)] = 256
    scale: bool = True

    @model_validator(mode="after")
    def _fits(self) -> UnetConfig:
        if self.kernel % 2 == 0:
            raise ValueError("kernel must be odd, or the length of the chunk changes")
        if self.step_embedding % 2:
            raise ValueError("step_embedding must be even: half are sines and half cosines")
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"widths {self.widths} must be multiples of groups = {self.groups}")
        return self

    @property
    def multiple(self) -> int:
        """Return what the horizon must be a multiple of."""
        return 2 ** (len(self.widths) - 1)


class TransformerConfig(Settings):
    """The transformer with cross-attention to the step and the observations; published low-dimensional defaults.

    Attributes:
        kind: "transformer".
        layers: of the decoder.
        heads: of each attention.
        width: of the tokens.
        dropout: of the tokens, in training.
        attention_dropout: inside the layers, in training.
        causal: an action attends to earlier ones and to the observations up to its own time.
        condition_layers: of an encoder over step and observations; 0 is an MLP on each token.
    """

    kind: Literal["transformer"] = "transformer"
    layers: PositiveInt = 8
    heads: PositiveInt = 4
    width: PositiveInt = 256
    dropout: Share = 0.0
    attention_dropout: Share = 0.3
    causal: bool = True
    condition_layers: Index = 0

    @model_validator(mode="after")
    def _fits(self) -> TransformerConfig:
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} must be even and a multiple of heads = {self.heads}")
        return self

    @property
    def multiple(self) -> int:
        """Return what the horizon must be a multiple of: nothing."""
        return 1


class MlpConfig(Settings):
    """A residual MLP over the whole chunk: trains and runs on one core of a CPU.

    Attributes:
        kind: "mlp".
        width: of the hidden state.
        depth: number of residual blocks.
        embedding: size of the embedding of step and observations, even.
    """

    kind: Literal["mlp"] = "mlp"
    width: PositiveInt = 256
    depth: PositiveInt = 3
    embedding: PositiveInt = 128

    @model_validator(mode="after")
    def _fits(self) -> MlpConfig:
        if self.embedding % 2:
            raise ValueError("embedding must be even: half are sines and half cosines")
        return self

    @property
    def multiple(self) -> int:
        """Return what the horizon must be a multiple of: nothing."""
        return 1


NetworkConfig = Annotated[UnetConfig | TransformerConfig | MlpConfig, Field(discriminator="kind")]


class ObservationField(Settings):
    """A part of the observation.

    Attributes:
        name: of the array in the data and of the sensor in a control loop.
        size: numbers that it contributes.
        columns: which numbers of the flattened array; None takes all.
    """

    name: str
    size: PositiveInt
    columns: tuple[Index, ...] | None = None

    @model_validator(mode="after")
    def _fits(self) -> ObservationField:
        if self.columns is not None and len(self.columns) != self.size:
            raise ValueError(f"{self.name}: {len(self.columns)} columns, but size {self.size}")
        return self


class ImageField(Settings):
    """A camera. Its pixels are 0 to 255; the network sees them normalised, as [0, 1] unless converted weights differ.

    Attributes:
        kind: "image".
        name: of the array in the data and of the sensor in a control loop.
        shape: channels, height, width. Arrays may also have the channels last, as uint8 images mostly do.
    """

    kind: Literal["image"]
    name: str
    shape: tuple[Literal[1, 3], PositiveInt, PositiveInt]

    @model_validator(mode="after")
    def _fits(self) -> ImageField:
        if self.shape[0] == self.shape[2]:
            raise ValueError(f"{self.name}: an image of width {self.shape[2]} cannot be told from its channels")
        return self

    @property
    def size(self) -> int:
        """Return how many numbers it has."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def columns(self) -> None:
        """Return None: all of its numbers are seen."""
        return None


def _kind_of_field(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "numbers" if kind is None else "image"


AnyField = Annotated[
    Annotated[ObservationField, Tag("numbers")] | Annotated[ImageField, Tag("image")], Discriminator(_kind_of_field)
]


class VisionConfig(Settings):
    """The encoder of images, a ResNet-18 with group normalisation; the defaults are the published ones.

    Attributes:
        width: channels of the first stage, a multiple of 16; each later stage doubles them. 64 is ResNet-18.
        crop: height and width cut out of each image, at random in training and in the centre else; None cuts nothing.
        pool: "spatial_softmax" gives `keypoints` places and mixes them linearly, "average" the mean of each channel.
        keypoints: K.
        separate: one encoder a camera; else one for all, whose images must then be of one shape.
    """

    width: PositiveInt = 64
    crop: tuple[PositiveInt, PositiveInt] | None = None
    pool: Literal["spatial_softmax", "average"] = "spatial_softmax"
    keypoints: PositiveInt = 32
    separate: bool = True

    @model_validator(mode="after")
    def _fits(self) -> VisionConfig:
        if self.width % 16:
            raise ValueError(f"width {self.width} must be a multiple of 16, the channels of a group")
        return self

    @property
    def features(self) -> int:
        """Return the numbers that an image becomes."""
        return 2 * self.keypoints if self.pool == "spatial_softmax" else 8 * self.width


class DiscreteAction(Settings):
    """An action with two values, such as a gripper (RTI-DP, section III-E).

    Attributes:
        index: of the action.
        rule: "clip" for a policy trained on the values as they are: a guess is drawn to +-1/factor, so that few steps
            can flip it. "scale" divides the values by the factor already in training, so that a guess needs nothing.
            Either way the result is one of the two values.
        factor: between full scale and what a few steps can cross.
    """

    index: Index
    rule: Literal["clip", "scale"] = "clip"
    factor: Annotated[float, Field(ge=1)] = 10.0


class ActionConfig(Settings):
    """What is commanded.

    Attributes:
        name: of the array in the data.
        size: numbers of one action.
        rate_hz: actions a second.
        labels: a name for each number, with its unit.
        discrete: those with two values.
    """

    name: str = "action"
    size: PositiveInt
    rate_hz: PositiveFloat = 10.0
    labels: tuple[str, ...] = ()
    discrete: tuple[DiscreteAction, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> ActionConfig:
        if self.labels and len(self.labels) != self.size:
            raise ValueError(f"{len(self.labels)} labels for {self.size} actions")
        indices = [action.index for action in self.discrete]
        if len(set(indices)) < len(indices) or any(index >= self.size for index in indices):
            raise ValueError(f"discrete actions {indices} must be different and below {self.size}")
        return self


class ChunkConfig(Settings):
    """The times of a chunk: entry i is the action of tick now - (observe - 1) + i.

    Attributes:
        horizon: T_p, actions predicted.
        observe: T_o, observations looked at, the newest is now.
        execute: T_a, actions executed before the next chunk when nothing else is asked.
    """

    horizon: PositiveInt = 16
    observe: PositiveInt = 2
    execute: PositiveInt = 8

    @model_validator(mode="after")
    def _fits(self) -> ChunkConfig:
        if self.first + self.execute > self.horizon:
            raise ValueError(
                f"observe - 1 + execute = {self.first + self.execute} actions, but the horizon is {self.horizon}"
            )
        return self

    @property
    def first(self) -> int:
        """Return the entry of the action of now."""
        return self.observe - 1


class NoiseConfig(Settings):
    """The table of betas of the training, which sampling keeps.

    Attributes:
        kind: "squared_cosine" (squaredcos_cap_v2) or "linear".
        steps: T.
        first: beta of the first step (linear).
        last: beta of the last step (linear).
    """

    kind: Literal["squared_cosine", "linear"] = "squared_cosine"
    steps: PositiveInt = 100
    first: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    last: Annotated[float, Field(gt=0, lt=1)] = 2e-2

    def process(self) -> TableVP:
        """Return the process of the table."""
        if self.kind == "squared_cosine":
            return VariancePreserving.from_betas(squared_cosine_betas(self.steps))
        return VariancePreserving.from_betas(torch.linspace(self.first, self.last, self.steps, dtype=torch.float64))


class PolicyConfig(Settings):
    """A diffusion policy.

    Attributes:
        observation: its parts, in order: numbers and images.
        action: what is commanded.
        chunk: the times.
        noise: of the training.
        prediction: what the network predicts.
        clip: normalised actions are limited to [-clip, clip] at every step; None does not limit them.
        normalise: "limits" maps the range of the numbers to [-1, 1], "gaussian" to mean 0 and deviation 1.
        network: its kind and sizes.
        vision: how images are encoded, where there are any.
    """

    observation: Annotated[tuple[AnyField, ...], Field(min_length=1)]
    action: ActionConfig
    chunk: ChunkConfig = ChunkConfig()
    noise: NoiseConfig = NoiseConfig()
    prediction: Literal["epsilon", "sample", "v"] = "epsilon"
    clip: PositiveFloat | None = 1.0
    normalise: Literal["limits", "gaussian"] = "limits"
    network: NetworkConfig
    vision: VisionConfig = VisionConfig()

    @model_validator(mode="after")
    def _fits(self) -> PolicyConfig:
        if self.chunk.horizon % self.network.multiple:
            raise ValueError(f"horizon {self.chunk.horizon} must be a multiple of {self.network.multiple}")
        if len({field.name for field in self.observation}) < len(self.observation):
            raise ValueError("observation names must differ")
        shapes, crop = {field.shape for field in self.images}, self.vision.crop
        if not self.vision.separate and len(shapes) > 1:
            raise ValueError(f"one encoder for all images needs images of one shape, not {sorted(shapes)}")
        if crop is not None and any(crop[0] > height or crop[1] > width for _, height, width in shapes):
            raise ValueError(f"the crop {crop} must fit into every image")
        seen = [crop or shape[1:] for shape in shapes]
        if self.vision.pool == "spatial_softmax" and any(min(size) <= 32 for size in seen):
            raise ValueError("images of 32 pixels or less become one place: use larger ones, or pool: average")
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if not self.images:
            del values["vision"]
        return values

    @property
    def images(self) -> tuple[ImageField, ...]:
        """Return the images among the observations."""
        return tuple(field for field in self.observation if isinstance(field, ImageField))

    @property
    def observation_size(self) -> int:
        """Return D_o, the numbers of one observation, pixels among them."""
        return sum(field.size for field in self.observation)

    @property
    def numbers_size(self) -> int:
        """Return the numbers of one observation, without pixels."""
        return self.observation_size - sum(field.size for field in self.images)

    @property
    def condition_size(self) -> int:
        """Return what the network is told of one observation: its numbers, and the features of its images."""
        return sum(self.vision.features if isinstance(field, ImageField) else field.size for field in self.observation)

    @property
    def observation_repeats(self) -> list[int]:
        """Return how many of the D_o numbers share each entry of the normaliser: a channel's pixels do."""
        repeats: list[int] = []
        for field in self.observation:
            channels = field.shape[0] if isinstance(field, ImageField) else field.size
            repeats += [field.size // channels] * channels
        return repeats

"""Training a class-conditional StyleGAN2 from scratch: one step, and all it needs to be resumed.

Sources: Karras et al., CVPR 2020 (network, lazy regularisation); Mescheder et al., Which Training
Methods for GANs do actually Converge?, ICML 2018 (R1); Zhao et al., Differentiable Augmentation
for Data-Efficient GAN Training, NeurIPS 2020 (augmentation of real and generated images alike).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from generators.discriminator import DiscriminatorSettings
from generators.sampling import tile
from generators.stylegan2 import StyleGAN2, StyleGAN2Settings
from hpd.data import ImageSet
from hpd.errors import DataError
from hpd.registry import Settings
from hpd.rng import Streams

_BETAS = (0.0, 0.99)
_W_AVERAGE_DECAY = 0.998


class TrainingSettings(Settings):
    """What decides the weights, apart from the number of images; a run resumes only with these."""

    data: dict[str, Any]
    seed: int = 0
    batch: int = Field(32, ge=1, description="images per step, real and generated each")
    group: int = Field(4, ge=1, description="neighbours of one class whose deviation is compared")
    lr: float = Field(0.0025, gt=0, description="of both networks")
    r1_gamma: float = Field(0.1, ge=0, description="weight of R1; 0 for none")
    r1_interval_steps: int = Field(16, ge=1, description="R1 acts in every such step")
    average_images: float = Field(10_000, gt=0, description="half-life of the averaged weights")
    translation: float = Field(0.125, ge=0, lt=1, description="largest shift, of the size")
    cutout: float = Field(0.25, ge=0, lt=1, description="side of the grey square, of the size")
    z_dim: int = Field(64, ge=1)
    w_dim: int = Field(64, ge=1)
    mapping_layers: int = Field(2, ge=1)
    channel_base: int = Field(768, ge=1, description="features times resolution, both networks")
    channel_max: int = Field(96, ge=1, description="most features of any layer, both networks")


def translate(images: Tensor, largest: int, rng: torch.Generator) -> Tensor:
    """Shift each image of [N, C, H, W] by its own whole number of pixels, up to `largest`.

    What comes in is 0, mid-grey in [-1, 1]: where the frame shows, a generator gains nothing by
    shifting its images itself.
    """
    if largest == 0:
        return images
    n, _, h, w = images.shape
    shifts = torch.randint(-largest, largest + 1, (2, n), generator=rng).to(images.device)
    rows = _shift_matrices(shifts[0], h).to(images.dtype)
    columns = _shift_matrices(shifts[1], w).to(images.dtype)
    # as products with permutation-like matrices the shifts are exact, and their gradient is as
    # deterministic as they are
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _shift_matrices(shifts: Tensor, size: int) -> Tensor:
    """Return [N, size, size] with a one where the column is the row plus the shift."""
    position = torch.arange(size, device=shifts.device)
    return position[None, None, :] == position[None, :, None] + shifts[:, None, None]


def cut_out(images: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Set a square of `side` pixels to 0 in each image of [N, C, H, W]; it may leave the frame."""
    if side == 0:
        return images
    n, _, h, w = images.shape
    corner = torch.rand(2, n, generator=rng).to(images.device)
    inside = []
    for size, start in zip((h, w), corner, strict=True):
        first = (start * (size + side)).long()[:, None] - side
        position = torch.arange(size, device=images.device)[None]
        inside.append((position >= first) & (position < first + side))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images * (~square).to(images.dtype)


class RealImages:
    """Draws real images of given classes, in [-1, 1].

    Args:
        part: the training part.
    """

    def __init__(self, part: ImageSet) -> None:
        self.images = part.unit() * 2 - 1
        self.counts = torch.tensor([len(own) for own in part.by_class])
        self.order = torch.cat(part.by_class)
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Return one image for each of labels [N]: [N, C, H, W]."""
        fraction = torch.rand(len(labels), generator=rng, dtype=torch.float64)
        within = (fraction * self.counts[labels]).long()
        return self.images[self.order[self.starts[labels] + within]]


class Trainer:
    """Both networks, the averaged generator and the optimisers.

    Args:
        settings: options of the run.
        part: the training part of the data.
    """

    def __init__(self, settings: TrainingSettings, part: ImageSet) -> None:
        self.settings = s = settings
        self.streams = Streams(s.seed)
        self.steps = 0
        self.num_classes = part.num_classes
        self.real = RealImages(part)
        shape = _network_shape(part) | {"channel_base": s.channel_base}
        self.generator_settings = StyleGAN2Settings.read(
            shape
            | {"z_dim": s.z_dim, "w_dim": s.w_dim, "mapping_layers": s.mapping_layers}
            | {"channel_max": s.channel_max}
        )
        self.generator = self.generator_settings.build(part.classes)
        self.generator.initialise(self.streams.generator("generator"))
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.discriminator = DiscriminatorSettings.read(
            shape | {"channel_max": s.channel_max, "group_size": s.group}
        ).build()
        self.discriminator.initialise(self.streams.generator("discriminator"))
        self.generator_adam = _adam(self.generator, s.lr, 1.0)
        # the extra steps of R1 are made up for by smaller ones (Karras et al., 2020, appendix B)
        share = s.r1_interval_steps / (s.r1_interval_steps + 1) if s.r1_gamma else 1.0
        self.discriminator_adam = _adam(self.discriminator, s.lr, share)

    @property
    def images_seen(self) -> int:
        """Real images that the discriminator has seen."""
        return self.steps * self.settings.batch

    def step(self) -> dict[str, float]:
        """Train both networks on one batch and return the losses."""
        s, rng = self.settings, self.streams.fork("step", self.steps)
        metrics = self._train_generator(rng.fork("generator"))
        metrics |= self._train_discriminator(rng.fork("discriminator"))
        if s.r1_gamma and self.steps % s.r1_interval_steps == 0:
            metrics |= self._regularise(rng.fork("r1"))
        self.steps += 1
        self._update_average()
        return metrics

    def _draw_labels(self, streams: Streams) -> Tensor:
        """Return labels [batch] in groups of one class, so that sameness within it shows."""
        s = self.settings
        drawn = torch.randint(
            self.num_classes, (s.batch // s.group,), generator=streams.generator("labels")
        )
        return drawn.repeat_interleave(s.group)

    def _draw_fakes(self, labels: Tensor, streams: Streams) -> Tensor:
        z = torch.randn(len(labels), self.settings.z_dim, generator=streams.generator("z"))
        ws = self.generator.map(z, labels)
        w = ws[:, 0].detach().mean(dim=0)
        self.generator.mapping.w_avg.lerp_(w, 1 - _W_AVERAGE_DECAY)
        return self.generator.synthesise(ws, noise="random", rng=streams.generator("noise"))

    def _augment(self, images: Tensor, streams: Streams) -> Tensor:
        s, size = self.settings, images.shape[-1]
        images = translate(images, round(s.translation * size), streams.generator("translation"))
        return cut_out(images, round(s.cutout * size), streams.generator("cutout"))

    def _train_generator(self, streams: Streams) -> dict[str, float]:
        self.discriminator.requires_grad_(False)
        labels = self._draw_labels(streams)
        fakes = self._augment(self._draw_fakes(labels, streams), streams)
        loss = F.softplus(-self.discriminator(fakes, labels)).mean()
        _descend(self.generator_adam, loss)
        self.discriminator.requires_grad_(True)
        return {"generator_loss": loss.item()}

    def _train_discriminator(self, streams: Streams) -> dict[str, float]:
        labels = self._draw_labels(streams)
        with torch.no_grad():
            fakes = self._draw_fakes(labels, streams)
        reals = self.real.draw(labels, streams.generator("real"))
        both = torch.cat([fakes, reals])
        # groups are neighbours, so generated and real images do not mix in them
        logits = self.discriminator(self._augment(both, streams), torch.cat([labels, labels]))
        fake, real = logits.chunk(2)
        loss = F.softplus(fake).mean() + F.softplus(-real).mean()
        _descend(self.discriminator_adam, loss)
        # a mean sign near 1 says that the discriminator knows the real images by heart
        sign = real.detach().sign().mean().item()
        return {"discriminator_loss": loss.item(), "real_sign": sign}

    def _regularise(self, streams: Streams) -> dict[str, float]:
        s = self.settings
        labels = self._draw_labels(streams)
        reals = self.real.draw(labels, streams.generator("real")).requires_grad_()
        logits = self.discriminator(self._augment(reals, streams), labels)
        (gradient,) = torch.autograd.grad(logits.sum(), reals, create_graph=True)
        penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
        _descend(self.discriminator_adam, penalty * (s.r1_gamma / 2 * s.r1_interval_steps))
        return {"r1": penalty.item()}

    @torch.no_grad()
    def _update_average(self) -> None:
        # a half-life of at most a twentieth of the run so far forgets the random start
        half_life = min(self.settings.average_images, 0.05 * self.images_seen)
        decay = 0.5 ** (self.settings.batch / half_life)
        for mean, value in zip(
            self.average.state_dict().values(), self.generator.state_dict().values(), strict=True
        ):
            mean.lerp_(value, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that `load` needs, apart from the number of steps."""
        found: dict[str, Tensor] = {}
        for role, module in self._modules().items():
            found |= {f"{role}.{name}": value for name, value in module.state_dict().items()}
        for role, adam in self._optimisers().items():
            for name, parameter in self._modules()[role].named_parameters():
                for key, value in adam.state[parameter].items():
                    found[f"{role}_adam.{key}.{name}"] = value
        return found

    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Restore what `tensors` returned after `steps` steps."""
        self.steps = steps
        for role, module in self._modules().items():
            names = module.state_dict().keys()
            module.load_state_dict({name: tensors[f"{role}.{name}"] for name in names})
        for role, adam in self._optimisers().items():
            for name, parameter in self._modules()[role].named_parameters():
                keys = [f"{role}_adam.{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq")]
                if keys[0] in tensors:
                    adam.state[parameter] = {k.split(".")[1]: tensors[k].clone() for k in keys}

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "average": self.average,
            "discriminator": self.discriminator,
        }

    def _optimisers(self) -> dict[str, torch.optim.Adam]:
        return {"generator": self.generator_adam, "discriminator": self.discriminator_adam}


def _network_shape(part: ImageSet) -> dict[str, int]:
    """Return what the data decide about both networks.

    Raises:
        DataError: if the images are not square.
    """
    channels, height, width = part.image_shape
    if height != width:
        raise DataError("images must be square", got=f"{width}x{height} px")
    return {"resolution": height, "channels": channels, "num_classes": part.num_classes}


def _adam(module: nn.Module, lr: float, share: float) -> torch.optim.Adam:
    """Return Adam whose steps are smaller by `share`, with averages that last as long."""
    betas = (_BETAS[0] ** share, _BETAS[1] ** share)
    return torch.optim.Adam(module.parameters(), lr=lr * share, betas=betas, eps=1e-8, fused=True)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


@torch.no_grad()
def sample_grid(generator: StyleGAN2, streams: Streams, columns: int = 10) -> Image.Image:
    """Return `columns` samples of each class as one picture, a row per class, enlarged."""
    spec = generator.spec
    z = torch.randn(columns * spec.num_classes, spec.z_dim, generator=streams.generator("grid"))
    labels = torch.arange(spec.num_classes).repeat_interleave(columns)
    return tile(generator(generator.map(z, labels)), columns)

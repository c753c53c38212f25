"""Training a class-conditional StyleGAN2: one step, and all that it needs to be resumed.

Sources: Karras et al., CVPR 2020 (network, lazy regularisation); Mescheder et al., Which Training
Methods for GANs do actually Converge?, ICML 2018 (R1); Zhao et al., Differentiable Augmentation
for Data-Efficient GAN Training, NeurIPS 2020 (augmentation of real and generated images alike);
Odena et al., ICML 2017 (auxiliary classifier).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from generators.draws import Draws
from generators.families.stylegan2 import StyleGAN2, StyleGAN2Settings
from generators.sampling import tile
from generators.store import read_generator
from generators.training.augmentation import AugmentationSettings, augment
from generators.training.discriminator import DiscriminatorSettings, load_discriminator
from generators.training.widening import fits_within, widened
from hpd.data import DATASETS, ImageSet
from hpd.data.registry import DatasetSettings
from hpd.errors import ConfigError, DataError
from hpd.machine.device import Processes
from hpd.registry import Only
from hpd.rng import Streams

_BETAS = (0.0, 0.99)
_W_AVERAGE_DECAY = 0.998
_MOST_ROWS = 20


class TrainingSettings(AugmentationSettings):
    """What decides the weights, apart from the number of images; a run resumes only with these."""

    data: Annotated[DatasetSettings, DATASETS] = Field(description="whose training part is learnt")
    seed: int = Field(0, ge=0, description="root of all randomness")
    batch: int = Field(32, ge=1, description="images per step, real and generated each")
    group: int = Field(4, ge=1, description="neighbours of one class whose deviation is compared")
    lr: float = Field(0.0025, gt=0, description="of both networks")
    r1_gamma: float = Field(0.1, ge=0, description="weight of R1; 0 for none")
    r1_interval_steps: int = Field(16, ge=1, description="R1 acts in every such step")
    class_weight: float = Field(
        0.0, ge=0, description="weight of the discriminator's auxiliary classifier; 0 for none"
    )
    average_images: float = Field(10_000, gt=0, description="half-life of the averaged weights")
    noise: bool = Field(True, description="whether the generator's layers add random noise")
    mirror: bool = Field(False, description="whether half of the real images are mirrored")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of activations; weights and sums of colours stay float32"
    )
    z_dim: int = Field(64, ge=1, description="numbers that an image is drawn from")
    w_dim: int = Field(64, ge=1, description="numbers of a style")
    mapping_layers: int = Field(2, ge=1, description="between the two")
    channel_base: int = Field(768, ge=1, description="features times resolution, both networks")
    channel_max: int = Field(96, ge=1, description="most features of any layer, both networks")
    start: str | None = Field(
        None,
        description="generator to go on from, of the same shape or with fewer features, to which"
        " new ones are added; none: from scratch",
    )
    start_discriminator: Annotated[str | None, Only("start")] = Field(
        None,
        description="file with the discriminator that `start` was trained against: a state of its"
        " training, or `discriminator.safetensors` beside it; none: a fresh one",
    )
    start_images: Annotated[int, Only("start")] = Field(
        20_000,
        ge=0,
        description="first, the discriminator learns alone, so that a fresh one catches up with"
        " `start`; 0 for one that goes on",
    )


class RealImages:
    """Draws real images of given classes, in [-1, 1].

    Args:
        part: the training part.
        mirror: whether each is mirrored, left to right, with probability 1/2.
    """

    def __init__(self, part: ImageSet, *, mirror: bool = False) -> None:
        self.part, self.mirror = part, mirror
        self.counts = torch.tensor([len(own) for own in part.by_class])
        self.order = torch.cat(part.by_class)
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, labels: Tensor, draws: Draws) -> Tensor:
        """Return one image for each of labels [N]: [N, C, H, W]."""
        fraction = draws.uniform(len(labels), dtype=torch.float64)
        within = (fraction * self.counts[labels]).long()
        images = self.part.unit(self.order[self.starts[labels] + within]) * 2 - 1
        if not self.mirror:
            return images
        mirrored = draws.uniform(len(labels)) < 0.5
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)


class Trainer:
    """Both networks, the averaged generator and the optimisers.

    Args:
        settings: options of the run.
        part: the training part of the data.
        device: where to compute; draws are made on the CPU, the same for every device.
        processes: those that share each batch, all with the same settings and data.

    Raises:
        DataError: if the images are not square.
        ConfigError: if the batch cannot be shared out in whole groups.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        part: ImageSet,
        *,
        device: torch.device | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.settings = s = settings
        self.device = device or torch.device("cpu")
        self.processes = processes or Processes()
        if s.batch % (s.group * self.processes.count):
            raise ConfigError(
                "the batch cannot be shared out in whole groups",
                got=f"batch={s.batch}, group={s.group}, {self.processes.count} processes",
                expected="a batch that is a multiple of group times processes",
            )
        self.streams = Streams(s.seed)
        self.steps = 0
        self.num_classes = part.num_classes
        self.real = RealImages(part, mirror=s.mirror)
        shape = _network_shape(part)
        shape |= {"channel_base": s.channel_base, "channel_max": s.channel_max}
        self.generator_settings = StyleGAN2Settings.read(
            shape | {"z_dim": s.z_dim, "w_dim": s.w_dim, "mapping_layers": s.mapping_layers}
        )
        self.generator = self._first_generator(part.classes).to(self.device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        if s.precision == "bfloat16":
            self.generator.compute_dtype = torch.bfloat16
        self.discriminator = DiscriminatorSettings.read(
            shape | {"group_size": s.group, "classifier": s.class_weight > 0}
        ).build()
        self.discriminator.initialise(self.streams.generator("discriminator"))
        if s.start_discriminator is not None:
            load_discriminator(self.discriminator, Path(s.start_discriminator).expanduser())
        self.discriminator.to(self.device)
        self.generator_adam = _adam(self.generator, s.lr, 1.0)
        # the extra steps of R1 are made up for by smaller ones (Karras et al., 2020, appendix B)
        share = s.r1_interval_steps / (s.r1_interval_steps + 1) if s.r1_gamma else 1.0
        self.discriminator_adam = _adam(self.discriminator, s.lr, share)
        self.augment_probability = 1.0 if s.augment_target is None else 0.0

    def _first_generator(self, classes: tuple[str, ...]) -> StyleGAN2:
        """Return the network that training begins with.

        Raises:
            ConfigError: if the one to go on from is of another shape.
            GeneratorError: if it cannot be read.
        """
        s = self.settings
        if s.start is None:
            fresh = self.generator_settings.build(classes)
            fresh.initialise(self.streams.generator("generator"))
            return fresh
        start = read_generator(s.start).generator
        own = self.generator_settings.build(classes)
        if not isinstance(start, StyleGAN2) or not _narrower(start, own):
            raise ConfigError(
                "the generator to go on from has another shape",
                got=f"{s.start}: {getattr(start, 'settings', type(start).__name__)}",
                expected=f"{self.generator_settings}, or fewer features",
            )
        own.initialise(self.streams.generator("generator"))
        own.load_state_dict(widened(start.state_dict(), own.state_dict(), _demodulated))
        return own

    @property
    def catches_up(self) -> bool:
        """Whether the discriminator still learns alone, from a generator that stands."""
        s = self.settings
        return s.start is not None and self.images_seen < s.start_images

    @property
    def images_seen(self) -> int:
        """Real images that the discriminator has seen."""
        return self.steps * self.settings.batch

    def step(self) -> dict[str, float]:
        """Train both networks on one batch and return the losses."""
        s, streams = self.settings, self.streams.fork("step", self.steps)
        metrics = self._play(streams.fork("play"))
        if s.r1_gamma and self.steps % s.r1_interval_steps == 0:
            metrics |= self._regularise(streams.fork("r1"))
        self.steps += 1
        self._update_average()
        self.augment_probability = s.adapt(self.augment_probability, metrics["real_sign"], s.batch)
        return metrics | {"augment_probability": self.augment_probability}

    def _play(self, streams: Streams) -> dict[str, float]:
        """Descend both losses, whose gradients come from one pass through either network."""
        s = self.settings
        labels = self._draw_labels(streams)
        fakes = self._draw_fakes(labels, streams.fork("fake"))
        reals = self._draw_reals(labels, streams)
        # apart, because half the batch fits the caches of a CPU better
        fake, fake_classes = self._judge(fakes, labels, streams.fork("fake"))
        real, real_classes = self._judge(reals, labels, streams.fork("real"))
        generator_loss = F.softplus(-fake).mean()
        discriminator_loss = F.softplus(fake).mean() + F.softplus(-real).mean()
        metrics = {"generator_loss": generator_loss, "discriminator_loss": discriminator_loss}
        if fake_classes is not None and real_classes is not None:
            metrics["fake_classes"] = F.cross_entropy(fake_classes, labels)
            metrics["real_classes"] = F.cross_entropy(real_classes, labels)
            generator_loss = generator_loss + s.class_weight * metrics["fake_classes"]
            discriminator_loss = discriminator_loss + s.class_weight * metrics["real_classes"]
        # a mean sign near 1 says that the discriminator knows the real images by heart
        metrics["real_sign"] = real.sign().mean()
        self._gather(self.generator, generator_loss, retain_graph=True)
        self._gather(self.discriminator, discriminator_loss)
        if not self.catches_up:
            self.generator_adam.step()
        self.discriminator_adam.step()
        values = self.processes.average(torch.stack([*metrics.values()]).detach())
        return dict(zip(metrics, values.tolist(), strict=True))

    def _gather(self, module: nn.Module, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Set the gradients of one network, averaged over processes."""
        parameters = list(module.parameters())
        # R1 does not depend on the last biases, nor images on noise that is left out;
        # Adam leaves a parameter without gradient alone
        found = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
        used = [g for g in found if g is not None]
        flat = self.processes.average(torch.cat([g.flatten() for g in used]))
        averaged = iter(flat.split([g.numel() for g in used]))
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.grad = None if gradient is None else next(averaged).view_as(parameter)

    def _draws(self, streams: Streams, role: str) -> Draws:
        p = self.processes
        return Draws(streams.generator(role), p.rank, p.count)

    def _draw_labels(self, streams: Streams) -> Tensor:
        """Return labels [batch] in groups of one class, so that sameness within it shows."""
        s = self.settings
        groups = s.batch // s.group // self.processes.count
        drawn = self._draws(streams, "labels").integers(0, self.num_classes, groups)
        return drawn.repeat_interleave(s.group).to(self.device)

    def _draw_reals(self, labels: Tensor, streams: Streams) -> Tensor:
        return self.real.draw(labels.cpu(), self._draws(streams, "real")).to(self.device)

    def _draw_fakes(self, labels: Tensor, streams: Streams) -> Tensor:
        z = self._draws(streams, "z").normal(len(labels), self.settings.z_dim)
        ws = self.generator.map(z.to(self.device), labels)
        w = self.processes.average(ws[:, 0].detach().mean(dim=0))
        if not self.catches_up:
            self.generator.mapping.w_avg.lerp_(w, 1 - _W_AVERAGE_DECAY)
        if not self.settings.noise:
            # the strengths stay at 0, so that constant noise adds nothing either
            return self.generator.synthesise(ws, noise="none")
        return self.generator.synthesise(ws, noise="random", draws=self._draws(streams, "noise"))

    def _judge(
        self, images: Tensor, labels: Tensor, streams: Streams
    ) -> tuple[Tensor, Tensor | None]:
        """Return the discriminator's logits of images that were augmented."""

        def draws(role: str) -> Draws:
            return self._draws(streams, role)

        images = augment(images, self.settings, self.augment_probability, draws)
        half = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            logits, classes = self.discriminator.judge(images, labels)
        return logits.float(), None if classes is None else classes.float()

    def _regularise(self, streams: Streams) -> dict[str, float]:
        s = self.settings
        labels = self._draw_labels(streams)
        reals = self._draw_reals(labels, streams).requires_grad_()
        logits, _ = self._judge(reals, labels, streams)
        (gradient,) = torch.autograd.grad(logits.sum(), reals, create_graph=True)
        penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
        self._gather(self.discriminator, penalty * (s.r1_gamma / 2 * s.r1_interval_steps))
        self.discriminator_adam.step()
        return {"r1": float(self.processes.average(penalty.detach()))}

    @torch.no_grad()
    def _update_average(self) -> None:
        half_life = self.settings.average_images
        if self.settings.start is None:
            # at most a twentieth of the run so far: it forgets the random start
            half_life = min(half_life, 0.05 * self.images_seen)
        decay = 0.5 ** (self.settings.batch / half_life)
        for mean, value in zip(
            self.average.state_dict().values(), self.generator.state_dict().values(), strict=True
        ):
            mean.lerp_(value, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that `load` needs, apart from the number of steps."""
        found = {"augment_probability": torch.tensor(self.augment_probability, dtype=torch.float64)}
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
        self.augment_probability = float(tensors["augment_probability"])
        for role, module in self._modules().items():
            names = module.state_dict().keys()
            module.load_state_dict({name: tensors[f"{role}.{name}"] for name in names})
        for role, adam in self._optimisers().items():
            for name, parameter in self._modules()[role].named_parameters():
                keys = [f"{role}_adam.{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq")]
                if keys[0] in tensors:
                    adam.state[parameter] = {
                        k.split(".")[1]: tensors[k].to(self.device, copy=True) for k in keys
                    }

    def _modules(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "average": self.average,
            "discriminator": self.discriminator,
        }

    def _optimisers(self) -> dict[str, torch.optim.Adam]:
        return {"generator": self.generator_adam, "discriminator": self.discriminator_adam}


def _narrower(start: StyleGAN2, own: StyleGAN2) -> bool:
    """Return whether a network differs from another by its features alone, none of them more."""
    features = {"channel_base", "channel_max"}
    alike = [g.settings.model_dump(exclude=features) for g in (start, own)]
    return alike[0] == alike[1] and fits_within(start.state_dict(), own.state_dict())


def _demodulated(name: str) -> bool:
    *_, layer, kind = name.split(".")
    return kind == "weight" and layer.startswith("conv")


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


@torch.no_grad()
def sample_grid(generator: StyleGAN2, streams: Streams, columns: int = 10) -> Image.Image:
    """Return samples as one picture, enlarged: a row of `columns` for each of the first classes."""
    spec = generator.spec
    rows = min(spec.num_classes, _MOST_ROWS)
    z = torch.randn(columns * rows, spec.z_dim, generator=streams.generator("grid"))
    labels = torch.arange(rows).repeat_interleave(columns)
    device = next(generator.parameters()).device
    return tile(generator(generator.map(z.to(device), labels.to(device))), columns)

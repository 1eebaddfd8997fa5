"""Recurrent variational autoencoder over the frames of a clip: predicts them, and dreams them up.

Each step has latents of its own with a learned recurrent prior (Chung et al. 2015; Denton & Fergus
2018, SVG-LP). What came before reaches a step three ways: the state, feature maps of the last two
frames, and copies of the last one (`models/frames.py`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from distgen.core.config import Config
from distgen.core.errors import UsageError
from distgen.core.spec import ImageSpec
from distgen.models.base import Family, LatentNoise, LatentTerms
from distgen.models.frames import FrameDecoder, FrameEncoder, Shifts
from distgen.models.layers import Pyramid, pyramid_for
from distgen.models.likelihoods import Gaussian
from distgen.models.recurrent import Drawn, LatentSteps, summed

_BLACK = -1.0


class ClipRVAEConfig(Config):
    """Recurrent variational autoencoder over the frames of a clip (Denton & Fergus 2018)."""

    family: Literal["clip-rvae"] = "clip-rvae"
    latent_dim: int = Field(default=32, ge=1, le=65_536)
    """Size of each frame's latent vector."""
    width: int = Field(default=64, ge=4, le=8192)
    """Channels at the coarsest resolution; halved with each doubling, down to a quarter."""
    state: int = Field(default=256, ge=4, le=8192)
    """Hidden units of the LSTM that remembers a clip so far."""
    copies: int = Field(default=4, ge=1, le=64)
    """Moved copies of the last frame, of which each pixel takes what fits."""
    reach: int = Field(default=8, ge=1, le=256)
    """Pixels by which a copy can move from one frame to the next, in each direction."""


class Teaching(NamedTuple):
    """What a model sees of the clips that it is trained on.

    Whatever is hidden from it, its terms are those of a bound: on a model that is fed its own
    frames there, with a posterior that is the prior there.
    """

    fed_nt: Tensor
    """Bool [n, time]: the next step is fed this true frame; else the model's own."""
    seen_nt: Tensor
    """Bool [n, time]: the posterior reads this frame; else it is the prior."""


class ClipModel(nn.Module):
    """p(x_t | z_1..z_t, x_1..x_t-1) and p(z_t | z_1..z_t-1, x_1..x_t-1), with a posterior that has
    also read x_t; a `LatentVariableModel` of clips.

    `terms` feeds back true frames: a bound on the probability of a clip, each frame given those
    before it. `sample` and `predict` feed back the expected frames, without the pixels' noise.

    Args:
        config: Sizes.
        spec: Frames, size and mode of the clips.
        pyramid: Resolutions of a frame.
    """

    num_classes = 0

    def __init__(self, config: ClipRVAEConfig, spec: ImageSpec, pyramid: Pyramid) -> None:
        super().__init__()
        channels, features = spec.channels, 2 * config.width
        self.picture_shape = (channels, spec.height, spec.width)
        self.reach = config.reach
        self.encoder = FrameEncoder(channels, pyramid, config.width, features)
        self.steps = LatentSteps(config.latent_dim, config.state, features, inputs=features)
        self.decoder = FrameDecoder(
            config.state + config.latent_dim + features,
            channels,
            pyramid,
            config.width,
            config.copies,
            config.reach,
        )
        self.likelihood = Gaussian()
        self.latent_groups = (config.latent_dim,) * (spec.frames or 0)
        self.latent_dim = sum(self.latent_groups)

    def observe(self, clips_ntchw: Tensor, uniforms_ntchw: Tensor) -> Tensor:
        """Clips in [-1, 1], each pixel spread over its grey level."""
        return self.likelihood.observe(clips_ntchw, uniforms_ntchw)

    def encode(self, observed_ntchw: Tensor) -> tuple[Tensor, ...]:
        """What each frame shows next to the one before it [n, time, features]."""
        blank = torch.full_like(observed_ntchw[:, :1], _BLACK)
        before_ntchw = torch.cat((blank, observed_ntchw[:, :-1]), dim=1)
        seen = self.encoder(before_ntchw.flatten(0, 1), observed_ntchw.flatten(0, 1))
        return (seen.vector_nf.unflatten(0, observed_ntchw.shape[:2]),)

    def terms(
        self,
        observed_ntchw: Tensor,
        encoding: tuple[Tensor, ...],
        normals_nd: Tensor,
        teaching: Teaching | None = None,
    ) -> LatentTerms:
        """The terms of the bound with one posterior sample each; of the bound that `teaching`
        leaves, where there is one.
        """
        normals_ntd = self._by_step(normals_nd)
        means_ntchw, drawn = self._run(normals_ntd, encoding[0], observed_ntchw, teaching)
        whole = summed(drawn)
        return LatentTerms(
            log_likelihood_n=self.likelihood.log_prob(means_ntchw, observed_ntchw),
            log_prior_n=whole.log_prior_n,
            log_posterior_n=whole.log_posterior_n,
            kl_nd=whole.kl_nd,
        )

    def forward(
        self, clips_ntchw: Tensor, noise: LatentNoise, teaching: Teaching | None = None
    ) -> LatentTerms:
        """The terms of the bound for clips in [-1, 1], with one posterior sample each."""
        observed = self.observe(clips_ntchw, noise.uniforms_nchw)
        return self.terms(observed, self.encode(observed), noise.normals_nd, teaching)

    def sample(self, latents_nd: Tensor, labels_n: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Clips [n, time, c, h, w] in [-1, 1] that the prior makes of standard normal numbers."""
        return self.likelihood.mean(self._run(self._by_step(latents_nd))[0])

    def reconstruct(self, clips_ntchw: Tensor, labels_n: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Clips in [-1, 1] from the posterior's means alone: no true frame is fed back."""
        (evidence_ntf,) = self.encode(clips_ntchw)
        no_noise_ntd = self._no_noise(evidence_ntf, evidence_ntf.shape[1])
        return self.likelihood.mean(self._run(no_noise_ntd, evidence_ntf)[0])

    def predict(
        self, context_ntchw: Tensor, num_frames: int, normals_nd: Tensor | None = None
    ) -> Tensor:
        """The next frames [n, num_frames, c, h, w] in [-1, 1], a function of the arguments alone.

        Args:
            context_ntchw: One or more given frames in [-1, 1].
            num_frames: How many follow; with the context they may be more than were trained on.
            normals_nd: Standard normal numbers that choose one of the futures: of a whole clip, or
                of more or fewer steps, but at least `num_frames`; the last ones count. None, or
                zeros, takes the prior's mean at each step.
        """
        given = context_ntchw.shape[1]
        (evidence_ntf,) = self.encode(context_ntchw)
        normals_ntd = self._no_noise(evidence_ntf, given + num_frames)
        if normals_nd is not None:
            future_ntd = self._by_step(normals_nd)[:, -num_frames:]
            normals_ntd = torch.cat((normals_ntd[:, :given], future_ntd), dim=1)
        means_ntchw, _ = self._run(normals_ntd, evidence_ntf, context_ntchw)
        return self.likelihood.mean(means_ntchw[:, given:])

    def _run(
        self,
        normals_ntd: Tensor,
        evidence_ntf: Tensor | None = None,
        fed_ntchw: Tensor | None = None,
        teaching: Teaching | None = None,
    ) -> tuple[Tensor, list[Drawn]]:
        """Expected frames, and terms of the bound by step.

        Args:
            normals_ntd: Standard normal numbers for each step to run.
            evidence_ntf: What the posterior reads at the first steps; the prior makes the rest.
            fed_ntchw: True frames that are fed back at the first steps; own ones at the rest.
            teaching: Which of both is hidden, by row and step.
        """
        blank = normals_ntd.new_full((len(normals_ntd), *self.picture_shape), _BLACK)
        shifts = Shifts(self.reach, blank)
        known = 0 if evidence_ntf is None else evidence_ntf.shape[1]
        fed = 0 if fed_ntchw is None else fed_ntchw.shape[1]
        before, last = blank, blank
        state = self.steps.start(len(blank))
        latents_nd = self.steps.nothing(state)
        frames, terms = [], []
        for step, normals_nd in enumerate(normals_ntd.unbind(1)):
            seen = self.encoder(before, last)
            if step:
                state = self.steps.advance(state, latents_nd, seen.vector_nf)
            if evidence_ntf is not None and step < known:
                seen_n1 = None if teaching is None else teaching.seen_nt[:, step : step + 1]
                drawn = self.steps.draw(state, evidence_ntf[:, step], normals_nd, seen_n1)
                terms.append(drawn)
                latents_nd = drawn.latents_nd
            else:
                latents_nd = self.steps.imagine(state, normals_nd)
            vector_nf = torch.cat((state.hidden_nh, latents_nd, seen.vector_nf), dim=1)
            frame = self.decoder(vector_nf, seen, last, shifts)
            frames.append(frame)
            before, last = last, frame
            if fed_ntchw is not None and step < fed:
                true = fed_ntchw[:, step]
                if teaching is None:
                    last = true
                else:
                    last = torch.where(teaching.fed_nt[:, step, None, None, None], true, frame)
        return torch.stack(frames, dim=1), terms

    def _by_step(self, normals_nd: Tensor) -> Tensor:
        return normals_nd.reshape(len(normals_nd), -1, self.steps.latent_dim)

    def _no_noise(self, like: Tensor, steps: int) -> Tensor:
        return like.new_zeros(len(like), steps, self.steps.latent_dim)


def build(config: ClipRVAEConfig, spec: ImageSpec) -> dict[str, nn.Module]:
    """The one network, `model`.

    Raises:
        UsageError: The frames' size does not fit, or there is only one.
    """
    if spec.frames == 1:
        raise UsageError(
            "A clip of one frame has nothing to predict.",
            where="data.shards",
            remedy="build the shard set with more --frames, or train a family of pictures",
        )
    return {"model": ClipModel(config, spec, pyramid_for(spec))}


FAMILY = Family(
    title="recurrent variational autoencoder of clips",
    config=ClipRVAEConfig,
    build=build,
    served="model",
    clips=True,
    unrolled=True,
)

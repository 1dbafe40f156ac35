"""Ours and diffusers' on the same exact score, the same noise and the same nodes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from shared import (
    DDIM,
    GRIDS,
    Ancestral,
    FlowMatching,
    Heun,
    InputError,
    Multistep,
    NetworkDenoiser,
    VarianceExploding,
    VariancePreserving,
    convert,
    explicit_grid,
    karras_grid,
    sample,
    trailing_grid,
    uniform_grid,
)
from shared.calibration.coefficients import fit
from shared.interop.diffusers import as_diffusers_scheduler, prediction_from_diffusers, process_from_diffusers
from shared.solvers.named import solver_from_data
from tests.oracles.gaussian import GaussianDenoiser, ddim_moments
from tests.oracles.mixture import MixtureDenoiser

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.peer

TABLES = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": np.geomspace(1e-4, 0.1, 200).tolist(), "num_train_timesteps": 200},
}
by_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())


def run_theirs(scheduler, exact, process, x, prediction="epsilon"):
    """Drive a diffusers scheduler with the exact score, asked at the level that it says."""
    for timestep in scheduler.timesteps:
        t = (timestep.double() + 1) / process.steps
        x0 = exact(x, t)
        output = convert(x0, x, t, process, source="sample", target=prediction)
        x = scheduler.step(output, timestep, x).prev_sample
    return x


@by_table
def test_process_of_a_scheduler_has_its_table(table):
    scheduler = diffusers.DDPMScheduler(**table)
    process = process_from_diffusers(scheduler)
    nodes = torch.arange(1, process.steps + 1, dtype=torch.float64) / process.steps
    np.testing.assert_allclose(process.alpha(nodes) ** 2, scheduler.alphas_cumprod, rtol=3e-5)
    assert process == process_from_diffusers(dict(scheduler.config))


def test_zero_terminal_snr_table_is_the_rescaled_one():
    scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True)
    process = process_from_diffusers(scheduler)
    nodes = torch.arange(1, 1000, dtype=torch.float64) / 1000
    np.testing.assert_allclose(process.alpha(nodes) ** 2, scheduler.alphas_cumprod[:-1], rtol=1e-3, atol=1e-6)


def test_flow_and_edm_schedulers_give_their_processes():
    assert process_from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler()) == FlowMatching(time_scale=1000.0)
    assert prediction_from_diffusers(diffusers.FlowMatchEulerDiscreteScheduler()) == "flow"
    assert process_from_diffusers(diffusers.EDMEulerScheduler(sigma_max=50.0)) == VarianceExploding(0.002, 50.0)
    assert prediction_from_diffusers(diffusers.DDIMScheduler(prediction_type="v_prediction")) == "v"
    with pytest.raises(InputError, match="sigmoid"):
        process_from_diffusers(diffusers.DDPMScheduler(beta_schedule="sigmoid"))


@pytest.mark.parametrize("n", [5, 10, 20, 40])
@by_table
def test_our_2m_equals_dpm_solver_multistep_on_the_same_nodes(table, n):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **table, algorithm_type="dpmsolver++", solver_order=2, prediction_type="sample"
    )
    # its float32 table, and data prediction, so that only float32 rounding remains between the two
    process = VariancePreserving.from_alphas_cumprod(scheduler.alphas_cumprod)
    exact = MixtureDenoiser(process)
    timesteps = np.round(np.linspace(0, process.steps - 1, n))[::-1].astype(int).tolist()
    scheduler.set_timesteps(timesteps=timesteps)
    grid = explicit_grid(process, (*[(timestep + 1) / process.steps for timestep in timesteps], 0.0))
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    theirs = run_theirs(scheduler, exact, process, x, prediction="sample")
    ours = sample(exact, x.double(), grid, Multistep.dpm_solver_pp_2m())
    assert (theirs.double() - ours).square().mean().sqrt() < 1e-6
    other = sample(exact, x.double(), grid, Multistep(2))
    assert (theirs.double() - other).square().mean().sqrt() > 1e-4


@pytest.mark.parametrize("n", [4, 10, 100, 1000])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_our_ddim_equals_diffusers_ddim_where_its_steps_are_what_it_says(spacing, n):
    """1000 / n is whole, so that its t - 1000 // n is its next timestep."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing=spacing, set_alpha_to_one=True)
    process = process_from_diffusers(scheduler)
    exact = MixtureDenoiser(process)
    scheduler.set_timesteps(n)
    times = [(int(timestep) + 1) / 1000 for timestep in scheduler.timesteps]
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = run_theirs(scheduler, exact, process, x)
    ours = sample(exact, x, explicit_grid(process, (*times, 0.0)), DDIM())
    assert (theirs - ours).abs().max() < 2e-4 if n == 1000 else 2e-5
    if spacing == "trailing":
        assert trailing_grid(process, n).times == pytest.approx((*times, 0.0))


def gaussian_std(scheduler, process, n) -> float:
    scheduler.set_timesteps(n)
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    exact = GaussianDenoiser(process)
    for timestep in scheduler.timesteps:
        t = (timestep.double() + 1) / 1000
        output = convert(exact(x, t), x, t, process, source="sample", target="epsilon")
        result = scheduler.step(output, int(timestep), x)
        x = result[0] if isinstance(result, tuple) else result.prev_sample
    return float(x[1] - x[0])


@pytest.mark.parametrize(("n", "wrong"), [(4, 0.326), (10, 0.151), (128, 0.230), (256, 0.287)])
def test_linspace_ddim_of_diffusers_and_monai_misses_the_spread_that_ours_has(n, wrong):
    """Both step to t - 1000 // n from levels that are not that far apart (diffusers 0.42, MONAI 1.6)."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="linspace", set_alpha_to_one=True)
    process = process_from_diffusers(scheduler)
    grid = uniform_grid(process, n)
    _, right = ddim_moments(grid.alpha, grid.sigma, 1.0)
    low, high = sample(GaussianDenoiser(process), torch.tensor([[0.0], [1.0]], dtype=torch.float64), grid, DDIM())
    assert float(high - low) == pytest.approx(right, rel=1e-9)
    assert gaussian_std(scheduler, process, n) == pytest.approx(wrong, abs=0.01)
    assert abs(wrong - right) > 0.03
    monai = pytest.importorskip("monai.networks.schedulers")
    theirs = monai.DDIMScheduler(num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02,
                                 clip_sample=False)  # fmt: skip
    assert gaussian_std(theirs, process, n) == pytest.approx(wrong, abs=0.01)


# --- our solvers inside diffusers ---

SOLVERS = {
    "2m": Multistep.dpm_solver_pp_2m(),
    "ab2_corrected": Multistep(2, corrector=True),
    "heun": Heun(),
    "ddim": DDIM(),
    "ancestral": Ancestral(),
}
by_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8),
        norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("grid", GRIDS)
@by_solver
def test_ddpm_pipeline_with_our_scheduler_draws_our_sample(unet, solver, grid, tmp_path):
    like = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False)
    pipeline = diffusers.DDPMPipeline(unet, as_diffusers_scheduler(solver, like=like, grid=grid))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=2, num_inference_steps=5, generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images
    process = process_from_diffusers(like)
    generator = torch.Generator().manual_seed(0)
    x = process.noise((2, 1, 8, 8), generator)
    ours = sample(NetworkDenoiser(unet, process, "v"), x, GRIDS[grid](process, 5), solver, generator=generator)
    assert ours.std() > 0.1
    torch.testing.assert_close(images, (ours / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


@by_solver
def test_scheduler_survives_saving_and_loading(solver, tmp_path):
    scheduler = as_diffusers_scheduler(
        solver, like=diffusers.DDPMScheduler(beta_schedule="scaled_linear"), grid="karras"
    )
    scheduler.save_pretrained(tmp_path)
    loaded = type(scheduler).from_pretrained(tmp_path)
    assert loaded.solver == solver
    assert loaded.process == scheduler.process
    assert loaded.config.clip_sample is True
    for one in (scheduler, loaded):
        one.set_timesteps(7)
    assert torch.equal(loaded.timesteps, scheduler.timesteps)
    exchanged = diffusers.DPMSolverMultistepScheduler.from_config(loaded.config)
    assert exchanged.config.beta_schedule == "scaled_linear"


def test_ddpm_pipeline_with_a_calibrated_solver_draws_its_sample_also_after_saving(unet, tmp_path):
    like = diffusers.DDPMScheduler(prediction_type="v_prediction", clip_sample=False)
    process = process_from_diffusers(like)
    denoiser = NetworkDenoiser(unet, process, "v")
    x = process.noise((2, 1, 8, 8), torch.Generator().manual_seed(0))
    grid = karras_grid(process, 4)
    solver, _ = fit(denoiser, x, [0.3 * x] * 4, grid, history=2)  # coefficients that no other solver has
    diffusers.DDPMPipeline(unet, as_diffusers_scheduler(solver, like=like)).save_pretrained(tmp_path)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=2, num_inference_steps=4, generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images
    ours = sample(denoiser, x, grid, solver)
    assert pipeline.scheduler.solver == solver
    torch.testing.assert_close(images, (ours / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)
    assert (ours - sample(denoiser, x, grid, Multistep.dpm_solver_pp_2m())).abs().max() > 0.05
    for wrong in ({"num_inference_steps": 5}, {"timesteps": [999.0, 500.0, 100.0, 10.0]}):
        with pytest.raises(InputError, match="num_inference_steps=4, the calls of the calibrated solver"):
            pipeline.scheduler.set_timesteps(**wrong)
    pipeline.scheduler.set_timesteps(4)
    with pytest.raises(InputError, match="calibration's own grid"):
        pipeline.scheduler.step(x, pipeline.scheduler.timesteps[2], x)


def test_whole_pipeline_survives_saving_and_loading(unet, tmp_path):
    pipeline = diffusers.DDPMPipeline(unet, as_diffusers_scheduler(Multistep(3)))
    pipeline.save_pretrained(tmp_path)
    loaded = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert loaded.scheduler.solver == Multistep(3)


def test_flow_scheduler_steps_like_flow_match_euler(unet):
    theirs = diffusers.FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(12)
    ours = as_diffusers_scheduler(DDIM(), like=theirs)
    ours.set_timesteps(timesteps=theirs.timesteps.tolist())
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    a = b = x
    with torch.no_grad():
        for one, other in zip(theirs.timesteps, ours.timesteps, strict=True):
            a = theirs.step(unet(a, one).sample, one, a).prev_sample
            b = ours.step(unet(b, other).sample, other, b).prev_sample
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_clipping_of_the_original_scheduler_is_kept():
    scheduler = as_diffusers_scheduler(DDIM(), like=diffusers.DDPMScheduler(prediction_type="sample"))
    scheduler.set_timesteps(1)
    result = scheduler.step(torch.full((1, 2), 3.0), scheduler.timesteps[0], torch.zeros(1, 2)).prev_sample
    torch.testing.assert_close(result, torch.ones(1, 2))


def test_image_to_image_starts_midway_with_a_fresh_history(unet):
    scheduler = as_diffusers_scheduler(Multistep(2), grid="trailing")
    scheduler.set_timesteps(10)
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x = scheduler.add_noise(torch.zeros(1, 1, 8, 8), noise, scheduler.timesteps[6:7])
    theirs = diffusers.DDPMScheduler().add_noise(torch.zeros(1, 1, 8, 8), noise, scheduler.timesteps[6:7].long())
    torch.testing.assert_close(x, theirs, rtol=1e-5, atol=1e-6)
    start = x
    with torch.no_grad():
        for timestep in scheduler.timesteps[6:]:
            x = scheduler.step(unet(x, timestep).sample, timestep, x).prev_sample
    assert scheduler.step_index == 10
    grid = trailing_grid(scheduler.process, 10).from_index(6)
    ours = sample(NetworkDenoiser(unet, scheduler.process, "epsilon"), start, grid, Multistep(2))
    torch.testing.assert_close(x, ours, rtol=0, atol=1e-5)


def test_what_cannot_be_bridged_is_said():
    with pytest.raises(InputError, match="EDM"):
        as_diffusers_scheduler(DDIM(), like=diffusers.EDMEulerScheduler())
    with pytest.raises(InputError, match="thresholding"):
        as_diffusers_scheduler(DDIM(), like=diffusers.DDIMScheduler(thresholding=True))
    with pytest.raises(InputError, match="'spiral'"):
        as_diffusers_scheduler(DDIM(), grid="spiral")
    with pytest.raises(InputError, match="learned variance"):
        as_diffusers_scheduler(DDIM()).step(torch.zeros(1, 2), 999.0, torch.zeros(1, 1))
    with pytest.raises(InputError, match="options colour"):
        solver_from_data({"name": "ddim", "colour": 1})
    with pytest.raises(InputError, match="name 'euler'"):
        solver_from_data({"name": "euler"})


def test_without_diffusers_the_extra_is_named_and_configurations_are_still_read():
    code = """
import subprocess
import sys
sys.modules["diffusers"] = None
from shared import DDIM, MissingExtra
from shared.interop.diffusers import as_diffusers_scheduler, process_from_diffusers
assert process_from_diffusers({"beta_schedule": "linear"}).steps == 1000
try:
    as_diffusers_scheduler(DDIM())
except MissingExtra as error:
    assert "fewstep[diffusers]" in str(error)
else:
    raise AssertionError("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

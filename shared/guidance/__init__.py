"""Functions from Denoiser to Denoiser: conditions on what is sampled, one method a file."""

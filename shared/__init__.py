"""The accelerated-denoising core that every domain stands on."""

"""Training of the learned change detector from files: `fewstep change pretrain` and `fewstep change train`."""

"""Medical imaging: MRI reconstruction from raw k-space, and the images it makes."""

"""Remote sensing: change detection on georeferenced rasters."""

"""Motion: scene-aware human motion synthesis."""

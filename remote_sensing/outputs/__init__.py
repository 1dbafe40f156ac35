"""What a comparison leaves behind: rasters, polygons, styles, a STAC item, a quicklook and a page."""

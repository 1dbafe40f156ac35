"""QGIS styles: a file of a layer's name beside it is applied when the layer is opened."""

from __future__ import annotations

from pathlib import Path

HEAT = ((0.0, "255,255,204,0"), (0.5, "254,178,76,255"), (0.75, "240,59,32,255"), (1.0, "128,0,38,255"))

_PROBABILITY = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis styleCategories="Symbology">
 <pipe>
  <rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" classificationMin="0" classificationMax="1">
   <rastershader>
    <colorrampshader colorRampType="INTERPOLATED" classificationMode="1" clip="0" minimumValue="0" maximumValue="1">
{items}
    </colorrampshader>
   </rastershader>
  </rasterrenderer>
 </pipe>
</qgis>
"""

_MASK = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis styleCategories="Symbology">
 <pipe>
  <rasterrenderer type="paletted" band="1" opacity="1">
   <colorPalette>
    <paletteEntry value="0" color="#f5f5f5" alpha="0" label="no change"/>
    <paletteEntry value="1" color="#d7191c" alpha="255" label="change"/>
   </colorPalette>
  </rasterrenderer>
 </pipe>
</qgis>
"""

_POLYGONS = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis styleCategories="Symbology">
 <renderer-v2 type="singleSymbol" symbollevels="0" enableorderby="0">
  <symbols>
   <symbol type="fill" name="0" alpha="1" clip_to_extent="1" force_rhr="0">
    <layer class="SimpleFill" enabled="1" locked="0" pass="0">
     <Option type="Map">
      <Option type="QString" name="color" value="215,25,28,70"/>
      <Option type="QString" name="outline_color" value="215,25,28,255"/>
      <Option type="QString" name="outline_width" value="0.4"/>
      <Option type="QString" name="outline_width_unit" value="MM"/>
      <Option type="QString" name="outline_style" value="solid"/>
      <Option type="QString" name="style" value="solid"/>
     </Option>
    </layer>
   </symbol>
  </symbols>
 </renderer-v2>
</qgis>
"""


def write_styles(folder: Path) -> list[Path]:
    """Write `probability.qml`, `change.qml` and `changes.qml`; return their paths."""
    items = "\n".join(
        f'     <item value="{value:g}" label="{value:g}" color="{_hex(colour)}" alpha="{colour.split(",")[3]}"/>'
        for value, colour in HEAT
    )
    texts = {"probability": _PROBABILITY.format(items=items), "change": _MASK, "changes": _POLYGONS}
    paths = []
    for name, text in texts.items():
        path = folder / f"{name}.qml"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _hex(colour: str) -> str:
    red, green, blue = (int(part) for part in colour.split(",")[:3])
    return f"#{red:02x}{green:02x}{blue:02x}"

"""Settings of `medrobust data tiles`. No torch here."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from medrobust.settings import option

if TYPE_CHECKING:
    from medrobust.data.slides import Cut


class TilesSettings(BaseModel):
    """A slide and its cut; kept as tiles.yaml. environment.json holds the slide by its hash, so it may be moved."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    slide: Path = option(..., "A whole-slide image: svs, ndpi, mrxs, scn, bif, tiled TIFF.", resume="recorded")
    magnification: float = option(..., "As of an objective; 10 is about one micron a pixel.")
    size: int = option(..., "Pixels of a tile's side; what the model takes unless given.")
    overlap: int = option(0, "Pixels that neighbours share.")
    tissue: float = option(0.25, "Tiles with a smaller share of tissue are left out.")

    @property
    def cut(self) -> "Cut":
        """The cut. Raises ConfigError for numbers that cannot be meant."""
        from medrobust.data.slides import Cut

        return Cut(self.magnification, self.size, self.overlap, self.tissue)

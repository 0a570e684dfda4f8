"""No edit: images stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from fairtune.config import Config
from fairtune.editing import EDITS

if TYPE_CHECKING:
    from fairtune.editing.asks import Asks
    from fairtune.editing.learned import Learned
    from fairtune.editing.scene import Scene


@EDITS.register("none")
class NoEdit(Config):
    """Images stay as they are."""

    acts: ClassVar[bool] = False

    @property
    def queries(self) -> int:
        """Nothing is asked."""
        return 0

    @property
    def attribute(self) -> str | None:
        """It hides nothing."""
        return None

    def attributed(self, default: str | None) -> NoEdit:
        """Return itself."""
        return self

    def pinned(self) -> NoEdit:
        """Return itself."""
        return self

    def canonical(self) -> dict[str, Any]:
        """Return nothing: no field acts."""
        return {}

    def asks(self, rows: int) -> Asks:
        """Return nothing: there is no edit."""
        from fairtune.editing.asks import Asks

        return Asks()

    def check(self, scene: Scene) -> None:
        """Refuse nothing."""

    def make(self, scene: Scene) -> Learned:
        """Return an edit that adds nothing; where `acts` is False nobody needs one."""
        import torch

        from fairtune.editing.edit import Edit
        from fairtune.editing.learned import Learned

        return Learned(Edit(torch.zeros(1, 1, 1), scene.image_size, clamp=False))
